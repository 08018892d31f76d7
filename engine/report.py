"""One HTML page of headings, tables and figures that needs nothing from elsewhere.

Every text is escaped; figures are files beside the page, named by relative path; no script, no font, no style sheet
is loaded.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ..chunking.errors import InputError

_STYLE = """
:root { --ink: #1a1a1a; --soft: #5f6368; --line: #dadce0; --pass: #00684a; --fail: #b3001b; --back: #ffffff; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 74rem; padding: 2.5rem 1.5rem 5rem; color: var(--ink); background: var(--back);
  font: 16px/1.55 "Source Sans 3", "Segoe UI", "Helvetica Neue", Arial, sans-serif; }
h1 { font-size: 2rem; line-height: 1.2; margin: 0 0 .3rem; font-weight: 650; letter-spacing: -.01em; }
h2 { font-size: 1.35rem; margin: 3rem 0 .8rem; padding-top: 1rem; border-top: 2px solid var(--ink); font-weight: 650; }
h3 { font-size: 1.05rem; margin: 2rem 0 .5rem; font-weight: 650; }
p { max-width: 46rem; margin: .5rem 0 1rem; }
.subtitle { color: var(--soft); margin-top: 0; }
.scroll { overflow-x: auto; margin: .6rem 0 1.4rem; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .32rem .8rem; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line); }
th { font-weight: 600; border-bottom: 1.5px solid var(--ink); vertical-align: bottom; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
tbody tr:hover { background: #f4f6f8; }
.pass { color: var(--pass); font-weight: 650; }
.fail { color: var(--fail); font-weight: 650; }
figure { margin: 1.2rem 0 2rem; }
figure img { display: block; max-width: 100%; height: auto; }
figcaption { color: var(--soft); font-size: .88rem; max-width: 46rem; margin-top: .5rem; }
nav { margin: 1.2rem 0 0; font-size: .92rem; }
nav a { margin-right: 1.1rem; color: #0a5aa0; text-decoration: none; }
nav a:hover { text-decoration: underline; }
footer { margin-top: 4rem; padding-top: .8rem; border-top: 1px solid var(--line); color: var(--soft);
  font-size: .85rem; }
@media print { body { max-width: none; padding: 0; } h2 { break-after: avoid; } figure, table { break-inside: avoid; } }
"""


@dataclass
class Page:
    """A page that is written from top to bottom.

    Parameters
    ----------
    title : str
    subtitle : str
        A line below it.

    Examples
    --------
    >>> page = Page("A < B")
    >>> page.table(["name", "value"], [["sigma", "3.2 %"]])
    >>> "A &lt; B" in page.html()
    True
    """

    title: str
    subtitle: str = ""
    _body: list[str] = field(default_factory=list)
    _headings: list[str] = field(default_factory=list)

    def heading(self, text: str, level: int = 2) -> None:
        """Add a heading; those of level 2 are listed at the top of the page."""
        if level == 2:
            self._headings.append(text)
            self._body.append(f'<h2 id="part{len(self._headings)}">{escape(text)}</h2>')
        else:
            self._body.append(f"<h{level}>{escape(text)}</h{level}>")

    def paragraph(self, text: str) -> None:
        """Add a paragraph."""
        self._body.append(f"<p>{escape(text)}</p>")

    def table(self, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Add a table; the cells "pass" and "fail" are coloured."""
        lines = ['<div class="scroll"><table>', "<thead><tr>"]
        lines += [f"<th>{escape(cell)}</th>" for cell in header]
        lines.append("</tr></thead><tbody>")
        for row in rows:
            cells = (f'<td class="{c}">{c}</td>' if c in ("pass", "fail") else f"<td>{escape(c)}</td>" for c in row)
            lines.append("<tr>" + "".join(cells) + "</tr>")
        lines.append("</tbody></table></div>")
        self._body.append("\n".join(lines))

    def figure(self, name: str, caption: str, width: int | None = None) -> None:
        """Add a picture that lies beside the page.

        Parameters
        ----------
        name : str
            File name, relative to the page.
        caption : str
            What it shows; also read out where the picture cannot be seen.
        width : int, optional
            In CSS pixels; it never exceeds the page.
        """
        size = f' width="{int(width)}"' if width else ""
        self._body.append(
            f'<figure><img src="{escape(quote(name))}" alt="{escape(caption)}"{size}>'
            f"<figcaption>{escape(caption)}</figcaption></figure>"
        )

    def html(self) -> str:
        """Return the page."""
        links = "".join(f'<a href="#part{n}">{escape(text)}</a>' for n, text in enumerate(self._headings, 1))
        parts = [
            "<!DOCTYPE html>",
            '<html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(self.title)}</title>",
            f"<style>{_STYLE}</style></head><body>",
            f"<header><h1>{escape(self.title)}</h1>",
            f'<p class="subtitle">{escape(self.subtitle)}</p>' if self.subtitle else "",
            f"<nav>{links}</nav>" if len(self._headings) > 1 else "",
            "</header>",
            *self._body,
            "<footer>Made with skymill.</footer>",
            "</body></html>",
        ]
        return "\n".join(part for part in parts if part) + "\n"


def make_directory(out_dir: str | os.PathLike[str]) -> Path:
    """Return the folder for a report, made if it is not there.

    Raises
    ------
    InputError
        If it is no folder of this machine, is a sky store, or cannot be made or written to.
    """
    if not os.fspath(out_dir) or "://" in os.fspath(out_dir):
        raise InputError(f"`out_dir` {os.fspath(out_dir)!r} came; give the name of a folder on this machine.")
    folder = Path(out_dir)
    # Before the folder is made: Zarr warns of all in a store that is none of its own.
    store = next((parent for parent in folder.resolve().parents if (parent / "zarr.json").exists()), None)
    if store is not None:
        raise InputError(f"`out_dir` {folder} is inside {store}, a store of maps; give a folder beside it.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"`out_dir` {folder} cannot be made ({error.strerror}); give a folder to write to.") from error
    if (folder / "zarr.json").exists():
        raise InputError(f"`out_dir` {folder} is a store of maps; give another folder for what is not a map.")
    if not os.access(folder, os.W_OK):
        raise InputError(f"`out_dir` {folder} cannot be written to; give a folder that can.")
    return folder


def plain(value: Any) -> Any:
    """Return `value` with every number that JSON cannot write (NaN, infinity) turned into None, through and through.

    Examples
    --------
    >>> plain({"sigma": float("nan"), "counts": (1, 2)})
    {'sigma': None, 'counts': [1, 2]}
    """
    if isinstance(value, dict):
        return {str(key): plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def number(value: float | None, digits: int = 4) -> str:
    """Return a number for a table, a dash where there is none.

    Examples
    --------
    >>> number(0.123456), number(1234567.0), number(float("nan"))
    ('0.1235', '1.235e+06', '–')
    """
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:.{digits}g}"


def fixed(value: float | None, digits: int = 4) -> str:
    """Return a number with so many digits behind the point, a dash where there is none.

    Examples
    --------
    >>> fixed(0.99)
    '0.9900'
    """
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:.{digits}f}"


def percent(value: float | None, digits: int = 2) -> str:
    """Return a fraction as a percentage, a dash where there is none.

    Examples
    --------
    >>> percent(0.0312)
    '3.12 %'
    """
    if value is None or not math.isfinite(value):
        return "–"
    return f"{100 * value:.{digits}f} %"
