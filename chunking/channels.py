"""The velocity channels of a store's cubes: what they are, and the two small arrays of the store that say so.

Does not cover: the cubes themselves, which are arrays of the store like maps (`store`, `tiles`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .errors import InputError
from .schema import CHANNEL_ARRAYS, CHANNEL_UNIT

if TYPE_CHECKING:
    import zarr

# Of a width: what differs by less differs by rounding.
OVERLAP = 1e-6


@dataclass(frozen=True)
class Channels:
    """The velocity channels of a cube, in ascending order; they may differ in width and leave gaps, not overlap.

    Parameters
    ----------
    velocity : tuple of float
        (channel,) middle of each channel, km/s.
    width : tuple of float
        (channel,) full width of each channel, km/s.

    Raises
    ------
    InputError
        If there is none, a number is not finite, a width not positive, the velocities do not ascend, or channels
        overlap by more than a millionth of a width.

    Examples
    --------
    >>> channels = Channels((-10.0, 0.0, 20.0), (10.0, 10.0, 30.0))
    >>> channels.count, channels.edges.tolist()
    (3, [[-15.0, -5.0], [-5.0, 5.0], [5.0, 35.0]])
    """

    velocity: tuple[float, ...]
    width: tuple[float, ...]

    def __post_init__(self) -> None:
        for option in ("velocity", "width"):
            object.__setattr__(self, option, _numbers(option, getattr(self, option)))
        velocity, width = np.array(self.velocity), np.array(self.width)
        if velocity.size != width.size:
            raise InputError(
                f"{velocity.size} velocities and {width.size} widths of channels came; each channel has one of both."
            )
        if not velocity.size:
            raise InputError("no channels came; a cube has one or more.")
        if (width <= 0).any():
            at = int(np.argmax(width <= 0))
            raise InputError(f"channel {at} came with a width of {width[at]:g} km/s; widths are positive.")
        if (np.diff(velocity) <= 0).any():
            at = int(np.argmax(np.diff(velocity) <= 0))
            raise InputError(
                f"channels {at} and {at + 1} came at {velocity[at]:g} and {velocity[at + 1]:g} km/s; channels go in "
                "the order of ascending velocity. Turn the order round, of the channels' data too."
            )
        low, high = velocity - width / 2, velocity + width / 2
        over = high[:-1] - low[1:]
        wrong = over > OVERLAP * np.minimum(width[:-1], width[1:])
        if wrong.any():
            at = int(np.argmax(wrong))
            raise InputError(
                f"channels {at} ({low[at]:g} to {high[at]:g} km/s) and {at + 1} ({low[at + 1]:g} to {high[at + 1]:g} "
                f"km/s) overlap by {over[at]:g} km/s, so gas would count twice. Check velocities and full widths; "
                "if they are rounded, give the edges, which touch as they are."
            )

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self.velocity)

    @property
    def edges(self) -> NDArray[np.float64]:
        """Lower and upper edge of each channel, (channel, 2) float64, km/s."""
        middle, half = np.array(self.velocity), np.array(self.width) / 2
        return np.stack([middle - half, middle + half], axis=1)

    @classmethod
    def from_edges(cls, edges: Iterable[float] | Iterable[Sequence[float]]) -> Channels:
        """Return the channels between edges.

        Parameters
        ----------
        edges : sequence
            n + 1 numbers, the edges of n channels that touch; or n pairs (low, high); km/s.

        Raises
        ------
        InputError
            If it is neither, or see `Channels`.

        Examples
        --------
        >>> Channels.from_edges([-90, -35, 35, 90]).width
        (55.0, 70.0, 55.0)
        >>> Channels.from_edges([(-90, -35), (35, 90)]).velocity
        (-62.5, 62.5)
        """
        try:
            numbers = np.asarray(list(edges), dtype=np.float64)
        except (TypeError, ValueError):
            numbers = np.empty(0)
        if numbers.ndim == 1 and numbers.size >= 2:
            numbers = np.stack([numbers[:-1], numbers[1:]], axis=1)
        if numbers.ndim != 2 or numbers.shape[1:] != (2,) or not numbers.size:
            raise InputError(
                f"`edges` {edges!r:.80} came; give the n + 1 edges of n channels that touch, or n pairs (low, high), "
                "in km/s."
            )
        return cls(tuple(numbers.mean(axis=1).tolist()), tuple((numbers[:, 1] - numbers[:, 0]).tolist()))

    def overlap(self, low: float, high: float) -> NDArray[np.float64]:
        """Return which fraction of each channel lies between two velocities, (channel,) float64 from 0 to 1.

        What is nearer to 0 or 1 than a millionth is just that: a limit at the edge of a channel leaves no splinter of
        its neighbour, whose missing values would count.

        Parameters
        ----------
        low, high : float
            Velocities in km/s; may be infinite.

        Raises
        ------
        InputError
            If `low` is not below `high`.

        Examples
        --------
        >>> Channels.from_edges([-90, -30, 30, 90]).overlap(-60, 30).tolist()
        [0.5, 1.0, 0.0]
        """
        if not low < high:
            raise InputError(f"the velocities {low} to {high} came; the first must be below the second.")
        edges = self.edges
        inside = np.minimum(edges[:, 1], high) - np.maximum(edges[:, 0], low)
        fraction: NDArray[np.float64] = inside / np.array(self.width)
        fraction[fraction < OVERLAP] = 0.0
        fraction[fraction > 1.0 - OVERLAP] = 1.0
        return fraction


def _numbers(option: str, values: Any) -> tuple[float, ...]:
    try:
        numbers = tuple(float(value) for value in values)
    except (TypeError, ValueError):
        raise InputError(f"`{option}` {values!r:.80} came; give one number a channel, in km/s.") from None
    for number in numbers:
        if not math.isfinite(number):
            raise InputError(f"`{option}` holds {number}; channels have finite velocities and widths.")
    return numbers


def read_channels(group: zarr.Group) -> Channels | None:
    """Return the channels of a store's group, or None where it has none (or a killed process left half of them).

    Parameters
    ----------
    group : zarr.Group
        Of a sky store.
    """
    found: list[Any] = [group.get(name) for name in CHANNEL_ARRAYS]
    if any(array is None for array in found):
        return None
    velocity, width = (np.asarray(array[:], dtype=np.float64) for array in found)
    if velocity.shape != width.shape or np.isnan(velocity).any() or np.isnan(width).any():
        return None
    return Channels(tuple(velocity.tolist()), tuple(width.tolist()))


def write_channels(group: zarr.Group, channels: Channels) -> None:
    """Write the arrays `velocity` and `channel_width` of a store's group.

    Parameters
    ----------
    group : zarr.Group
        Of a sky store, writable.
    channels : Channels
        What they say.
    """
    for (name, meaning), values in zip(CHANNEL_ARRAYS.items(), (channels.velocity, channels.width), strict=True):
        group.create_array(
            name,
            data=np.array(values, dtype=np.float64),
            chunks=(channels.count,),
            fill_value=math.nan,
            compressors=None,
            dimension_names=["channel"],
            attributes={"units": CHANNEL_UNIT, "long_name": meaning},
            overwrite=True,
        )


def difference(there: Channels, wanted: Channels) -> str | None:
    """Return in words how channels differ, or None where they are the same to a millionth of a width.

    Parameters
    ----------
    there, wanted : Channels
        Two of them.
    """
    if there.count != wanted.count:
        return f"{there.count} channels, not {wanted.count}"
    off = np.abs(there.edges - wanted.edges) > OVERLAP * np.minimum(there.width, wanted.width)[:, None]
    if not off.any():
        return None
    at = int(np.argmax(off.any(axis=1)))
    (low, high), (other_low, other_high) = there.edges[at], wanted.edges[at]
    return f"channel {at} from {low:g} to {high:g} km/s, not {other_low:g} to {other_high:g} km/s"
