"""`skymill run FILE`: the steps of a TOML file, checked as a whole before the first one starts."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ..chunking.errors import FormatError, InputError, SkymillError, StoreNotFoundError, nearest
from .session import Session, run_verb
from .verbs import BY_NAME, SESSION, Verb


@dataclass(frozen=True)
class Step:
    """One step: a verb with its values."""

    number: int
    verb: Verb
    values: Mapping[str, object]
    report: str | None = None

    @property
    def title(self) -> str:
        """How messages call it."""
        return f"step {self.number} ({self.verb.name})"


@dataclass(frozen=True)
class Recipe:
    """A file of steps, read and checked."""

    file: str
    steps: tuple[Step, ...]
    session: Mapping[str, object] = field(default_factory=dict)


def read_steps(file: str, replaced: Mapping[str, str] | None = None) -> Recipe:
    """Return the steps of a TOML file.

    The file holds `[[step]]` tables, each with a `verb` and that verb's parameters under their Python names;
    at the top, where wanted, `workers`, `threads`, `memory`, `address`; and a table `[set]` of names whose values
    replace `{name}` in the texts of the steps.  Relative paths are taken from the current folder.

    Parameters
    ----------
    file : path
        The TOML file.
    replaced : mapping of str to str, optional
        Values for names of the table `[set]`, instead of those in the file.

    Returns
    -------
    Recipe
        All of its steps, checked: a mistake in the last one shows before the first one runs.

    Raises
    ------
    StoreNotFoundError
        If there is no such file.
    FormatError
        If it is not TOML.
    InputError
        If a verb, a key or a value is not understood, or a parameter is missing.

    Examples
    --------
    >>> import pathlib
    >>> _ = pathlib.Path("steps.toml").write_text('''
    ... [[step]]
    ... verb = "residual"
    ... store = "sky.zarr"
    ... prediction = "pred_850um"
    ... target = "i850um"
    ... ''')
    >>> read_steps("steps.toml").steps[0].title
    'step 1 (residual)'
    """
    content = _parse(file)
    known = ("set", "step", *(option.name for option in SESSION))
    for key in content:
        if key not in known:
            raise InputError(f"{file}: {key!r} is no key of the file; {nearest(key, known)}.")
    names = _names(file, content.get("set", {}), replaced or {})
    session = {}
    for option in SESSION:
        if option.name in content:
            try:
                session[option.name] = option.from_toml(_fill(file, content[option.name], names))
            except InputError as error:
                raise InputError(f"{file}: {error}") from None
    tables = content.get("step")
    if not isinstance(tables, list) or not tables or not all(isinstance(table, dict) for table in tables):
        raise InputError(f"{file} has no steps; write each as a table [[step]] with a `verb`.")
    steps = tuple(_step(file, number, table, names) for number, table in enumerate(tables, start=1))
    return Recipe(file, steps, session)


def run_steps(recipe: Recipe, session: Session) -> None:
    """Carry out the steps in order, on one cluster; with `session.plan`, show what each would do.

    Parameters
    ----------
    recipe : Recipe
        From `read_steps`.
    session : Session
        Where and how they run.

    Raises
    ------
    SkymillError
        What a step refuses, with a note that says which step it was.

    Examples
    --------
    >>> run_steps(Recipe("nothing.toml", ()), Session())
    """
    with session.client() as client:
        for step in recipe.steps:
            if not session.quiet:
                print(f"{step.title} of {len(recipe.steps)}", flush=True)
            try:
                run_verb(step.verb, step.values, session, client, step.report)
            except SkymillError as error:
                if session.plan and step.number > 1:
                    # What this step reads is made by an earlier one, so it cannot be planned in full yet.
                    print(f"{step.verb.name} is planned when the steps before it have run; now: {error}")
                    continue
                error.add_note(f"This happened in {step.title} of {recipe.file}.")
                raise


def _parse(file: str) -> dict[str, object]:
    try:
        return tomllib.loads(Path(file).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise StoreNotFoundError(f"no file {file}; give the path of a TOML file of steps.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise FormatError(f"{file} is not TOML: {error}.") from error


def _names(file: str, table: object, replaced: Mapping[str, str]) -> dict[str, str]:
    if not isinstance(table, dict) or not all(isinstance(v, str | int | float) for v in table.values()):
        raise InputError(f"{file}: [set] is a table of texts and numbers.")
    for name in replaced:
        if name not in table:
            raise InputError(f"--set {name}=... came, and [set] of {file} has no {name!r}; {nearest(name, table)}.")
    return {name: str(value) for name, value in {**table, **replaced}.items()}


def _fill(file: str, value: object, names: Mapping[str, str]) -> object:
    """Return a value with `{name}` replaced in all its texts."""

    def found(match: re.Match[str]) -> str:
        name = match[1]
        if name not in names:
            raise InputError(f"{file}: {{{name}}} stands in {match.string!r}; {nearest(name, names)} in [set].")
        return names[name]

    if isinstance(value, str):
        return re.sub(r"\{(\w+)\}", found, value)
    if isinstance(value, list):
        return [_fill(file, each, names) for each in value]
    if isinstance(value, dict):
        return {key: _fill(file, each, names) for key, each in value.items()}
    return value


def _step(file: str, number: int, table: Mapping[str, object], names: Mapping[str, str]) -> Step:
    where = f"{file}, step {number}"
    name = table.get("verb")
    if not isinstance(name, str):
        raise InputError(f"{where} has no `verb`; give one of {', '.join(sorted(BY_NAME))}.")
    if name not in BY_NAME:
        raise InputError(f"{where}: {name!r} is no verb; {nearest(name, BY_NAME)}.")
    verb = BY_NAME[name]
    options = {option.name: option for option in verb.options}
    own_report = "report" in options
    values: dict[str, object] = {}
    report = None
    for key, value in table.items():
        filled = _fill(file, value, names)
        if key == "verb":
            continue
        if key == "report" and not own_report:
            if not isinstance(filled, str):
                raise InputError(f"{where} ({name}): `report` = {filled!r} came; the path of a file expected.")
            report = filled
            continue
        if key not in options:
            known = ["verb", *options, *([] if own_report else ["report"])]
            raise InputError(f"{where}: {key!r} is no key of {name}; {nearest(key, known)}.")
        try:
            values[key] = options[key].from_toml(filled)
        except InputError as error:
            raise InputError(f"{where} ({name}): {error}") from None
    missing = [option.name for option in verb.options if option.required and option.name not in values]
    if missing:
        raise InputError(f"{where} ({name}) lacks {', '.join(missing)}.")
    return Step(number, verb, values, report)
