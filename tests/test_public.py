"""The public face: what it offers, that it is documented in full, and that every example runs."""

from __future__ import annotations

import dataclasses
import doctest
import importlib
import inspect
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import skymill as sm

ROOT = Path(__file__).resolve().parents[1]
LAYERS = ("chunking", "models", "engine", "deploy")
MODULES = ["skymill"] + [
    f"skymill.{layer}" + (f".{path.stem}" if path.stem != "__init__" else "")
    for layer in LAYERS
    for path in sorted((ROOT / layer).glob("*.py"))
]
PUBLIC = [name for name in sm.__all__ if name not in ("models", "errors", "__version__")]
NO_VERBS = ("Bins", "Plan", "Worker", "connect")
VERBS = [name for name in PUBLIC if sm._HOMES[name].startswith("engine.") and name not in NO_VERBS]


def sections(text: str) -> dict[str, str]:
    """The sections of a numpy-style docstring by title."""
    parts = re.split(r"^([A-Z][A-Za-z ]+)\n-{3,}\n", inspect.cleandoc(text), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def documented(text: str) -> list[str]:
    """The parameters that a docstring documents; several may share one entry."""
    entries = re.findall(r"^(\*{0,2}\w[\w, *]*?)(?: :.*)?$", sections(text).get("Parameters", ""), flags=re.MULTILINE)
    return [name.strip().lstrip("*") for entry in entries for name in entry.split(",")]


def accepted(thing: Callable[..., Any]) -> list[str]:
    """The parameters that a thing takes; fields that a dataclass has from another one are documented there."""
    names = [name for name in inspect.signature(thing).parameters if not name.startswith("_")]
    above = thing.__mro__[1:] if inspect.isclass(thing) else ()
    inherited = {field.name for each in above if dataclasses.is_dataclass(each) for field in dataclasses.fields(each)}
    return [name for name in names if name not in ("self", "cls") and name not in inherited]


def defined_in(module: ModuleType) -> Iterator[tuple[str, Callable[..., Any]]]:
    """Every function, class and method that a module defines itself."""
    for name, thing in vars(module).items():
        if not (inspect.isfunction(thing) or inspect.isclass(thing)) or thing.__module__ != module.__name__:
            continue
        yield name, thing
        if inspect.isclass(thing):
            for inner, method in vars(thing).items():
                if inspect.isfunction(method):
                    yield f"{name}.{inner}", method


@pytest.mark.parametrize("name", sm.__all__)
def test_every_name_is_there(name: str) -> None:
    assert getattr(sm, name) is not None
    assert name in dir(sm)


def test_names_and_homes_agree() -> None:
    assert set(sm.__all__) == {*sm._HOMES, "__version__"}
    assert len(sm.__all__) == len(set(sm.__all__))
    source = (ROOT / "__init__.py").read_text()
    # What type checkers see is what runs.
    seen = dict(re.findall(r"^    from \.(\S+) import \w+ as (\w+)$", source, flags=re.MULTILINE))
    pairs = re.findall(r"^    from \.(\S*) import (\w+) as (\w+)$", source, flags=re.MULTILINE)
    assert seen
    for module, name, alias in pairs:
        home = f"{module}:{name}" if sm._HOMES[alias].count(":") else f"{module}.{name}".lstrip(".")
        assert sm._HOMES[alias] == home
    assert {alias for _, _, alias in pairs} == set(sm._HOMES)


def test_unknown_names_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match="predikt"):
        sm.predikt  # noqa: B018


@pytest.mark.parametrize("name", PUBLIC)
def test_public_names_are_documented_in_full(name: str) -> None:
    thing = getattr(sm, name)
    text = inspect.getdoc(thing) or ""
    found = sections(text)
    assert len(text.splitlines()[0]) > 10
    assert sorted(documented(text)) == sorted(accepted(thing))
    assert ">>> " in found.get("Examples", "")
    if name in VERBS:
        assert "Plan" in found["Returns"]
    if name in (*VERBS, "open", "connect"):
        assert re.search(r"Error\b", found["Raises"])


@pytest.mark.parametrize("name", VERBS)
def test_raises_names_errors_of_ours(name: str) -> None:
    text = sections(inspect.getdoc(getattr(sm, name)) or "")["Raises"]
    named = set(re.findall(r"\b\w+Error\b", "\n".join(line for line in text.splitlines() if line[:1].strip())))
    assert named
    assert named <= set(vars(sm.errors))


@pytest.mark.parametrize("name", VERBS)
def test_verbs_take_a_store_and_give_a_plan(name: str) -> None:
    verb = getattr(sm, name)
    assert "store" in accepted(verb)
    assert "Plan" in str(inspect.signature(verb).return_annotation)


@pytest.mark.parametrize("name", VERBS)
def test_verbs_end_in_the_same_arguments(name: str) -> None:
    parameters = inspect.signature(getattr(sm, name)).parameters
    assert list(parameters)[-2:] == ["threads", "memory"]
    assert "overwrite" not in parameters or list(parameters)[-3] == "overwrite"
    shared = [parameters[key] for key in ("overwrite", "threads", "memory") if key in parameters]
    reference = inspect.signature(sm.predict).parameters
    assert all(each.kind is inspect.Parameter.KEYWORD_ONLY for each in shared)
    assert [str(each) for each in shared] == [str(reference[each.name]) for each in shared]


@pytest.mark.parametrize("module", MODULES)
def test_documented_parameters_are_the_real_ones(module: str) -> None:
    """Wherever a docstring lists parameters it lists those that exist, and all of them."""
    wrong = {}
    for name, thing in defined_in(importlib.import_module(module)):
        text = thing.__doc__ or ""
        if "Parameters" in sections(text) and sorted(documented(text)) != sorted(accepted(thing)):
            wrong[name] = (documented(text), accepted(thing))
    assert wrong == {}


@pytest.mark.parametrize("module", MODULES)
def test_examples(module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every example of every docstring gives what it says; in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    loaded = importlib.import_module(module)
    report: list[str] = []
    for test in doctest.DocTestFinder(exclude_empty=True).find(loaded, module):
        runner.run(test, out=report.append)
    assert runner.summarize(verbose=False).failed == 0, "".join(report)
    assert os.getcwd() == str(tmp_path)
