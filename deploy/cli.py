"""The command line: the verbs of the public face, with the same names and the same defaults."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from ..chunking.errors import RunError, SkymillError, nearest
from .options import Option
from .readers import read_pairs
from .verbs import BY_COMMAND, SESSION, VERBS, Verb

# What a shell sees: 1 a run that could not finish, 2 a command that cannot be carried out as given.
UNFINISHED, REFUSED, INTERRUPTED = 1, 2, 130

OTHERS = {
    "demo": "a synthetic sky from simulation to report, in a few minutes",
    "ebv": "reddening at a position, from a map of a sky store",
    "info": "what a sky store holds",
    "run": "carry out the steps of a TOML file, resuming what is done",
}


class _Parser(argparse.ArgumentParser):
    """Ends with exit code 2, the usage, and options named in full."""

    def __init__(self, name: str, description: str, epilog: str | None = None) -> None:
        super().__init__(
            prog=f"skymill {name}",
            description=description,
            epilog=epilog,
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        # Words such as -90,-35,35 and -90:-35 are values, as -90 alone is.
        self._negative_number_matcher = re.compile(r"-\.?\d")
        self.add_argument("--debug", action="store_true", help="show the traceback of an error")

    def error(self, message: str) -> NoReturn:
        unknown = message.removeprefix("unrecognized arguments: ")
        if unknown != message:
            flags = [flag for flag in self._option_string_actions if flag.startswith("--")]
            named = [word.partition("=")[0] for word in unknown.split() if word.startswith("--")]
            message += "".join(f"\n{word}: {nearest(word, flags)}" for word in named)
        lacking = message.removeprefix("the following arguments are required: ")
        if lacking != message and not lacking.startswith("-"):
            # The usage of argparse has them last, where an option that takes several words swallows them.
            first = " ".join(str(action.metavar or action.dest) for action in self._get_positional_actions())
            message += (
                f"\nBegin with what has no name: {self.prog} {first} ...; an option that takes several words takes all "
                "that follow it."
            )
        self.exit(REFUSED, f"{self.format_usage()}{self.prog}: {message}\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Carry out one command and return its exit code.

    Parameters
    ----------
    arguments : sequence of str, optional
        The words after `skymill`; default those of the process.

    Returns
    -------
    int
        0 if all is done, 1 if a run could not finish, 2 if the command cannot be carried out as given, 130 if
        it was interrupted.

    Raises
    ------
    SystemExit
        After `--help`, and where the words cannot be understood (code 2).

    Examples
    --------
    >>> main(["--version"])
    skymill 0.1.0
    0
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words:
        guarded(lambda: print(_overview()))
        return REFUSED
    name, rest = words[0], words[1:]
    if name in ("-h", "--help", "help"):
        return guarded(lambda: print(_overview()))
    if name in ("-V", "--version"):
        from .. import __version__

        return guarded(lambda: print(f"skymill {__version__}"))
    if name not in BY_COMMAND and name not in OTHERS:
        _say(f"{name!r} is no command; {nearest(name, [*BY_COMMAND, *OTHERS])}\nSee skymill --help.")
        return REFUSED
    return guarded(lambda: _command(name, rest), debug="--debug" in rest)


def guarded(action: Callable[[], None], *, debug: bool = False) -> int:
    """Return the exit code of an action; errors become one message on stderr.

    Parameters
    ----------
    action : callable
        What to do.
    debug : bool
        Let errors pass with their traceback.

    Returns
    -------
    int
        See `main`.

    Examples
    --------
    >>> guarded(lambda: None)
    0
    """
    try:
        action()
        sys.stdout.flush()
    except KeyboardInterrupt:
        if debug:
            raise
        _say("interrupted. What is finished is kept; the same command continues.")
        return INTERRUPTED
    except BrokenPipeError:
        # The reader, `head` for one, has seen enough. Python would complain again when it closes stdout.
        sys.stdout = None
        return 0
    except RunError as error:
        if debug:
            raise
        _say(_text(error))
        return UNFINISHED
    except (SkymillError, OSError) as error:
        if debug:
            raise
        _say(_text(error))
        return REFUSED
    except Exception as error:
        if debug:
            raise
        _say(f"{type(error).__name__}: {error}\nThis is an error of skymill itself; --debug shows where it happened.")
        return REFUSED
    return 0


def _text(error: Exception) -> str:
    return "\n".join([str(error), *getattr(error, "__notes__", [])])


def _say(message: str) -> None:
    print(f"skymill: {message}", file=sys.stderr)


def _overview() -> str:
    """Return the help of `skymill` alone; no parser of any verb is needed for it."""
    order = ("demo", "simulate", "ingest", "info", "prepare", "train", "predict", "residual", "hand-down",
             "ratio", "evaluate")  # fmt: skip
    summaries = {**{verb.command: verb.summary for verb in VERBS}, **OTHERS}
    names = [*(name for name in order if name in summaries), *(name for name in summaries if name not in order)]
    width = max(map(len, names))
    lines = [
        "usage: skymill COMMAND ...",
        "",
        "Train once, predict everywhere on the sky.",
        "",
        *(f"  {name:<{width}}  {summaries[name]}" for name in names),
        "",
        "skymill COMMAND --help shows the options of one. Every verb takes --plan, which shows what it would do.",
        "Exit codes: 0 done, 1 a run that could not finish (the same command continues it), 2 refused as given,",
        "130 interrupted (the same command continues).",
    ]
    return "\n".join(lines)


def _command(name: str, words: list[str]) -> None:
    if name == "info":
        _info(words)
    elif name == "ebv":
        _ebv(words)
    elif name == "demo":
        _demo(words)
    elif name == "run":
        _run(words)
    else:
        _verb(BY_COMMAND[name], words)


def _add_session(parser: argparse.ArgumentParser, *, plan: bool = True) -> None:
    group = parser.add_argument_group("where and how it runs")
    for option in SESSION:
        option.add_to(group)
    if plan:
        group.add_argument("--plan", action="store_true", help="show what would be done, and stop")
    group.add_argument("--quiet", action="store_true", help="say nothing but answers, warnings and errors")


def verb_parser(verb: Verb) -> argparse.ArgumentParser:
    """Return the command-line parser of a verb.

    Parameters
    ----------
    verb : Verb
        An entry of the table.

    Returns
    -------
    argparse.ArgumentParser
        Options that are not given leave no trace in its namespace.

    Examples
    --------
    >>> verb_parser(BY_COMMAND["residual"]).prog
    'skymill residual'
    """
    parser = _Parser(verb.command, verb.summary + ".", f"example:\n  {verb.example}")
    for option in verb.options:
        option.add_to(parser)
    _add_session(parser)
    if "report" not in {option.name for option in verb.options}:
        parser.add_argument("--report", metavar="FILE", help="write the report of the run as JSON")
    return parser


def _given(options: Sequence[Option], found: argparse.Namespace) -> dict[str, object]:
    return {option.name: option.from_words(getattr(found, option.name)) for option in options if option.name in found}


def _verb(verb: Verb, words: list[str]) -> None:
    from .session import Session, run_verb

    # Intermixed, so that `predict model-a model-b --out x sky.zarr` means what it says.
    found = verb_parser(verb).parse_intermixed_args(words)
    values = _given(verb.options, found)
    report = None if "report" in {option.name for option in verb.options} else found.report
    session = Session(**_given(SESSION, found), plan=found.plan, quiet=found.quiet)  # type: ignore[arg-type]
    _log(quiet=session.quiet)
    with session.client() as client:
        run_verb(verb, values, session, client, report)


def _log(*, quiet: bool) -> None:
    """Let progress be seen where there is no terminal for a bar; Dask keeps its own counsel."""
    import logging

    ours = logging.getLogger("skymill")
    for handler in [known for known in ours.handlers if known.name == "command line"]:
        ours.removeHandler(handler)
    if quiet:
        return
    handler = logging.StreamHandler()
    handler.name = "command line"
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", datefmt="%H:%M:%S"))
    ours.addHandler(handler)
    ours.setLevel(logging.INFO)


def _info(words: list[str]) -> None:
    from .info import describe_store

    parser = _Parser("info", "What a sky store holds: grid, maps with unit, band and beam, size, what is finished.")
    parser.add_argument("store", help="sky store")
    parser.add_argument("--json", action="store_true", help="write it as JSON")
    found = parser.parse_args(words)
    print(describe_store(found.store, as_json=found.json))


def _ebv(words: list[str]) -> None:
    from ..chunking.interpolation import INTERPOLATIONS
    from ..chunking.query import ReddeningQuery

    parser = _Parser(
        "ebv",
        "E(B-V) in mag at a position; nan where the map has no value. For many positions: skymill.ReddeningQuery.",
        "example:\n  skymill ebv sky.zarr 120 -45",
    )
    parser.add_argument("store", help="sky store")
    parser.add_argument("l", type=float, help="galactic longitude in degrees")
    parser.add_argument("b", type=float, help="galactic latitude in degrees")
    parser.add_argument("--map", default="ebv", help="map of reddening (default: ebv)")
    parser.add_argument("--equatorial", action="store_true", help="l and b are right ascension and declination (ICRS)")
    parser.add_argument(
        "--interpolation", default="nearest", choices=INTERPOLATIONS, help="between pixels (default: nearest)"
    )
    found = parser.parse_args(words)
    query = ReddeningQuery(found.store, found.map, interpolation=found.interpolation)
    reddening = (query.query_equ if found.equatorial else query.ebv)(found.l, found.b)
    print(f"{float(reddening):.5f}")


def _run(words: list[str]) -> None:
    from .session import Session
    from .steps import read_steps, run_steps

    parser = _Parser(
        "run",
        "Carry out the steps of a TOML file one after the other; what is done already is not done again.",
        "a file:\n"
        '  [set]\n  sky = "sky.zarr"\n\n'
        '  [[step]]\n  verb = "simulate"\n  kind = "dust"\n  store = "{sky}"\n  nside = 256',
    )
    parser.add_argument("file", help="TOML file of steps")
    parser.add_argument(
        "--set", metavar="NAME=VALUE", nargs="+", default=[], help="values for the names of the table [set]"
    )
    _add_session(parser)
    found = parser.parse_intermixed_args(words)
    replaced = read_pairs("set", found.set)
    recipe = read_steps(found.file, {name: str(value) for name, value in replaced.items()})
    given = {**recipe.session, **_given(SESSION, found)}
    session = Session(**given, plan=found.plan, quiet=found.quiet)  # type: ignore[arg-type]
    _log(quiet=session.quiet)
    run_steps(recipe, session)


def _demo(words: list[str]) -> None:
    from .demo import add_options, demo

    parser = _Parser("demo", "A synthetic sky: simulate, train, predict 8 times finer, compare, report.")
    add_options(parser)
    _add_session(parser, plan=False)
    found = parser.parse_args(words)
    session = _given(SESSION, found)
    _log(quiet=found.quiet)
    options = {"nside": found.nside, "finer": found.finer, "seed": found.seed, "quiet": found.quiet}
    demo(found.out, **options, session=session)


if __name__ == "__main__":
    sys.exit(main())
