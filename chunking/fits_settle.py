"""Frame, ordering and unit of a FITS map: from its header, or from the user where the header is silent.

Nothing is guessed.  Where both speak and disagree that is an error, unless the user has said in so many words, with
`override`, that the header is wrong.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple

from .errors import FrameError, InputError, OrderingError, UnitError, nearest
from .fits_map import FitsMap
from .units import parse_unit

# COORDSYS of the HEALPix convention (one letter) and the words that archives write instead.
FRAME_WORDS = {
    "galactic": ("G", "GAL", "GALACTIC"),
    "icrs": ("C", "Q", "CEL", "CELESTIAL", "EQU", "EQUATORIAL", "ICRS", "RADEC", "J2000", "FK5"),
    "ecliptic": ("E", "ECL", "ECLIPTIC"),
}
ORDERING_WORDS = {"ring": ("RING",), "nested": ("NESTED", "NEST")}
CHOICES = ("frame", "ordering", "unit")


class Settled(NamedTuple):
    """What is certain of a map: "galactic", "icrs" or "ecliptic"; "ring" or "nested"; the unit as astropy writes it."""

    frame: str
    ordering: str
    unit: str


def settle(
    described: FitsMap,
    *,
    frame: str | None = None,
    ordering: str | None = None,
    unit: str | None = None,
    override: Collection[str] = (),
) -> Settled:
    """Return frame, ordering and unit of a map.

    Parameters
    ----------
    described : FitsMap
        What the header says.
    frame, ordering, unit : str, optional
        What the user says.
    override : collection of {"frame", "ordering", "unit"}
        Where the user's word counts although the header says something else.

    Returns
    -------
    Settled

    Raises
    ------
    FrameError, OrderingError, UnitError
        If neither knows, or what one says is unknown, or they disagree.
    InputError
        If an override is unknown, or given without the word that is to count.
    """
    given = {"frame": frame, "ordering": ordering, "unit": unit}
    check_override(override, given)
    return Settled(
        _settle_word(_FRAME, described, described.frame, frame, "frame" in override),
        _settle_word(_ORDERING, described, described.ordering, ordering, "ordering" in override),
        _settle_unit(described, unit, "unit" in override),
    )


def check_override(override: Collection[str], given: Mapping[str, object]) -> None:
    """Raise InputError unless every override is known and comes with the word that is to count."""
    if isinstance(override, str):
        raise InputError(f'`override` {override!r} came; give a list of words, such as ["unit"].')
    for word in override:
        if word not in CHOICES:
            raise InputError(f"`override` {word!r} came; {nearest(word, CHOICES)}.")
        if given[word] is None:
            raise InputError(f'`override` names "{word}", but no `{word}` is given that could count instead.')


class _Question(NamedTuple):
    """An option, the keyword that answers it, and what is raised where there is no answer."""

    option: str
    keyword: str
    words: Mapping[str, tuple[str, ...]]
    error: type[InputError]


_FRAME = _Question("frame", "COORDSYS", FRAME_WORDS, FrameError)
_ORDERING = _Question("ordering", "ORDERING", ORDERING_WORDS, OrderingError)


def _where(described: FitsMap) -> str:
    return f"{described.path!r}, HDU {described.hdu}"


def _settle_word(question: _Question, described: FitsMap, stated: str | None, given: str | None, override: bool) -> str:
    """Return the meaning of what a header keyword and an option say."""
    option, keyword, words, error = question
    where = _where(described)
    wanted = None if given is None else _meaning(given, words)
    if given is not None and wanted is None:
        raise error(f"`{option}` {given!r} came; {nearest(given, words)}.")
    if stated is None:
        if wanted is None:
            raise error(
                f"{where} does not say its {option} (no {keyword} in the header), and a wrong guess would go "
                f"unnoticed: give `{option}`, one of {', '.join(words)}."
            )
        return wanted
    if override and wanted is not None:
        return wanted
    meant = _meaning(stated, words)
    if meant == "icrs" and described.facts.get("EQUINOX") == 1950.0:
        meant, stated = None, f"{stated}, equinox 1950"
    if meant is None:
        raise error(
            f"{where} says {keyword} = {stated!r}, which skymill does not know ({', '.join(words)} are known). If you "
            f'know what is meant, give `{option}` and override=["{option}"].'
        )
    if wanted is not None and wanted != meant:
        raise error(
            f"`{option}` {given!r} came, but {where} says {keyword} = {stated!r}. Leave `{option}` out; or, if the "
            f'header is wrong, add override=["{option}"].'
        )
    return meant


def _meaning(text: str, words: Mapping[str, tuple[str, ...]]) -> str | None:
    cleaned = str(text).strip()
    for meaning, spellings in words.items():
        if cleaned.lower() == meaning or cleaned.upper() in spellings:
            return meaning
    return None


def _settle_unit(described: FitsMap, given: str | None, override: bool) -> str:
    column, where = described.column, _where(described)
    wanted = None if given is None else parse_unit(given)
    if described.unit is None:
        if wanted is None:
            raise UnitError(
                f"{where} does not say the unit of column {column.name} (no TUNIT{column.number} in the header): give "
                '`unit`, for example "MJy/sr", "K_CMB", or "1" for a pure number.'
            )
        return wanted
    if override and wanted is not None:
        return wanted
    try:
        meant = parse_unit(described.unit)
    except UnitError as error:
        raise UnitError(
            f"{where} says TUNIT{column.number} = {described.unit!r}: {error} If you know what is meant, give `unit` "
            'and override=["unit"].'
        ) from None
    if wanted is not None and wanted != meant:
        raise UnitError(
            f"`unit` {given!r} came, but {where} says TUNIT{column.number} = {described.unit!r}, which is {meant}. "
            'Leave `unit` out (skymill.prepare converts units); or, if the header is wrong, add override=["unit"].'
        )
    return meant
