"""Options of the verbs: one description for the command line and for TOML files."""

from __future__ import annotations

import argparse
from dataclasses import dataclass

from ..chunking.errors import InputError
from .values import KINDS


@dataclass(frozen=True)
class Option:
    """One parameter of a verb.

    Parameters
    ----------
    name : str
        Its name in the Python API; the command line writes it with hyphens.
    kind : str
        What it takes, one of `values.KINDS`.
    help : str
        One line.
    default : object
        The default of the API, for the help; a value that is not given is left to the API.
    required : bool
        Whether it must be given.
    positional : bool
        Whether the command line takes it without a name.
    choices : tuple of str
        The only texts allowed, where there are few.
    """

    name: str
    kind: str
    help: str
    default: object = None
    required: bool = False
    positional: bool = False
    choices: tuple[str, ...] = ()

    @property
    def flag(self) -> str:
        """Its spelling on the command line."""
        return "--" + self.name.replace("_", "-")

    def add_to(self, parser: argparse._ActionsContainer) -> None:
        """Add it to a command-line parser; absent options leave no trace in the namespace."""
        kind = KINDS[self.kind]
        settings: dict[str, object] = {"help": self._help()}
        if self.kind == "switch":
            action = argparse.BooleanOptionalAction if self.default is True else "store_true"
            parser.add_argument(self.flag, action=action, default=argparse.SUPPRESS, help=self._help())
            return
        if kind.several and (self.positional or not kind.repeated):
            settings["nargs"] = "*" if kind.may_be_empty else "+"
        elif kind.several:
            # One word each time: an option that took all the words after it would swallow the store.
            settings["action"] = "append"
        if self.choices:
            settings["choices"] = self.choices
        if self.positional:
            settings["metavar"] = self.name if kind.metavar == "TEXT" or not kind.several else kind.metavar
            parser.add_argument(self.name, **settings)  # type: ignore[arg-type]
            return
        settings |= {"default": argparse.SUPPRESS, "required": self.required, "dest": self.name}
        if not self.choices:
            settings["metavar"] = kind.metavar
        parser.add_argument(self.flag, **settings)  # type: ignore[arg-type]

    def _help(self) -> str:
        if self.required or self.positional or self.default in (None, False, (), ""):
            return self.help.replace("%", "%%")
        default = " ".join(map(str, self.default)) if isinstance(self.default, tuple) else self.default
        return f"{self.help} (default: {default})".replace("%", "%%")

    def from_words(self, words: object) -> object:
        """Return the value of what the command line gave: a word, a list of words, or a switch."""
        return KINDS[self.kind].from_words(self.name, words)

    def from_toml(self, value: object) -> object:
        """Return the value of what a TOML file gave.

        Raises
        ------
        InputError
            If it is of another type than the option takes.
        """
        value = KINDS[self.kind].from_toml(self.name, value)
        if self.choices and value not in self.choices:
            raise InputError(f"`{self.name}` = {value!r} came; one of {', '.join(self.choices)} expected.")
        return value
