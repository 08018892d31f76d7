"""What a verb is for the command line and for files of steps, and the options that many of them share."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .options import Option

if TYPE_CHECKING:
    from ..engine.plan import Plan


@dataclass(frozen=True)
class Verb:
    """One verb of the public face.

    Parameters
    ----------
    name : str
        Its name, the same in Python, in TOML and, with hyphens, on the command line.
    summary : str
        One line.
    options : tuple of Option
        Its parameters, positional ones in their order on the command line.
    example : str
        A command as a user would write it.
    module : str
        Its home in `engine/`, where that has another name.
    answer : callable, optional
        (result, values) -> text: of a verb whose result is what was asked for, not an account of what was written.
    """

    name: str
    summary: str
    options: tuple[Option, ...]
    example: str
    module: str = ""
    answer: Callable[[Any, Mapping[str, object]], str] | None = None

    @property
    def command(self) -> str:
        """Its spelling on the command line."""
        return self.name.replace("_", "-")

    def load(self) -> Callable[..., Plan[Any]]:
        """Return the function, loading what it needs."""
        module = importlib.import_module(f"..engine.{self.module or self.name}", __package__)
        function: Callable[..., Plan[Any]] = getattr(module, self.name)
        return function


def store_option(help: str = "sky store") -> Option:
    """Return the positional option `store`."""
    return Option("store", "path", help, required=True, positional=True)


OVERWRITE = Option("overwrite", "switch", "replace what another run made", default=False)
