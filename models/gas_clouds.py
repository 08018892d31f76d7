"""The clouds of a synthetic gas sky: velocities, line profiles, emissivities, and the velocity channels of its cube."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ..chunking.channels import Channels
from ..chunking.errors import InputError
from .emission import modified_black_body

type Floats = NDArray[np.float64]

LARGEST_VELOCITY: Final = 90.0  # km/s, where the cube ends on both sides
CENTRAL_SHARE: Final = 0.35  # of the width that channels would have if all were equal; the outermost have 1.65 of it
PARTS: Final = 3  # velocity components of a cloud, whose shares change over the sky

FREQUENCIES: Final = {"i353": 353.0, "i545": 545.0, "i857": 857.0, "i100um": 3000.0}  # GHz
REFERENCE: Final = "i857"
PIVOT_GHZ: Final = 353.0  # where a change of the emissivity index changes nothing


@dataclass(frozen=True)
class Cloud:
    """One population of clouds.

    Parameters
    ----------
    emissivity : float
        At 857 GHz, MJy/sr for 1e20 H/cm^2.
    column : float
        Towards the Galactic poles, 1e20 cm^-2, where it covers the sky.
    dispersion : float
        Of the line profile of each of its components, km/s.
    spread : float
        Velocity of the outer components against the middle one, km/s.
    cover : float
        Where a Gaussian field of variance 1 is above this, the cloud is; -inf for everywhere.
    flattening : float
        Sine of the latitude below which the column grows no more towards the plane.
    """

    emissivity: float
    column: float
    dispersion: float
    spread: float
    cover: float
    flattening: float


# Emissivities of the first two are those of local and of intermediate-velocity gas (Planck Collaboration Int. XVII
# 2014, and two thirds of it); the others, and all that is not an emissivity, are guesses.
CLOUDS: Final = (
    Cloud(0.43, 1.7, 7.5, 5.0, -math.inf, 0.018),
    Cloud(0.29, 1.2, 8.5, 5.0, 0.2, 0.25),
    Cloud(0.20, 0.85, 8.0, 5.0, 0.5, 0.25),
    Cloud(0.36, 0.70, 6.5, 4.0, 0.3, 0.25),
    Cloud(0.25, 0.60, 6.5, 4.0, 0.5, 0.25),
)
# Middles of their profiles in km/s, by how many there are: as far apart as the channels allow.
VELOCITIES: Final = {
    1: (-2.0,),
    2: (-2.0, -50.0),
    3: (-2.0, -54.0, 53.0),
    4: (-11.0, -61.0, 67.0, 24.0),
    5: (0.0, -68.0, 68.0, -33.0, 33.0),
}
CROWDED: Final = (5.0, 3.0)  # dispersion and spread where more than three share the range of velocities


def gas_channels(count: int = 41) -> Channels:
    """Return the channels of the cube: symmetric, within 90 km/s, wider towards both ends.

    Parameters
    ----------
    count : int
        How many.

    Notes
    -----
    That the binned cube of Clark & Hensley 2019 ends at 90 km/s, and how its widths grow, are guesses.

    Examples
    --------
    >>> channels = gas_channels()
    >>> channels.count, round(channels.width[20], 2), round(channels.width[0], 2), round(float(channels.edges.max()), 6)
    (41, 1.61, 7.1, 90.0)
    """
    step = np.linspace(-1.0, 1.0, count + 1)
    edges = LARGEST_VELOCITY * step * (CENTRAL_SHARE + (1.0 - CENTRAL_SHARE) * np.abs(step))
    return Channels.from_edges((edges.round(9) + 0.0).tolist())


def velocities(count: int) -> Floats:
    """Return the velocities of the components of some clouds, (cloud, component) float64 in km/s.

    Examples
    --------
    >>> velocities(2).tolist()
    [[-7.0, -2.0, 3.0], [-55.0, -50.0, -45.0]]
    """
    middle = np.array(VELOCITIES[count])
    spread = np.array([_shape(cloud, count)[1] for cloud in CLOUDS[:count]])
    return np.asarray(middle[:, np.newaxis] + spread[:, np.newaxis] * (np.arange(PARTS) - PARTS // 2))


def _shape(cloud: Cloud, count: int) -> tuple[float, float]:
    """Return dispersion and spread."""
    return CROWDED if count > 3 else (cloud.dispersion, cloud.spread)


@lru_cache(maxsize=8)
def profiles(count: int, channels: int) -> Floats:
    """Return which part of a component each channel holds, (cloud, component, channel) float64, 1 over all channels.

    Parameters
    ----------
    count : int
        Clouds.
    channels : int
        Channels of `gas_channels`.

    Examples
    --------
    >>> profiles(3, 41).shape, bool(np.allclose(profiles(3, 41).sum(axis=2), 1))
    ((3, 3, 41), True)
    """
    edges = gas_channels(channels).edges
    bounds = np.append(edges[:, 0], edges[-1, 1])
    out = np.empty((count, PARTS, channels))
    for cloud, row in enumerate(velocities(count)):
        for part, velocity in enumerate(row):
            width = math.sqrt(2.0) * _shape(CLOUDS[cloud], count)[0]
            reached = [math.erf((bound - velocity) / width) for bound in bounds]
            share = np.diff(reached)
            out[cloud, part] = share / share.sum()
    out.flags.writeable = False
    return out


def emissivities(
    clouds: int | Sequence[float] = 3, *, temperature: float = 20.0, beta: float = 1.5, hii: float = 0.5
) -> dict[str, Floats]:
    """Return the emissivities of the templates of a synthetic gas sky.

    Parameters
    ----------
    clouds : int or sequence of float
        How many clouds, or their emissivities at 857 GHz in MJy/sr per 1e20 cm^-2.
    temperature : float
        Of the dust, K.
    beta : float
        Emissivity index.
    hii : float
        Emissivity of ionised gas over that of the first cloud.

    Returns
    -------
    dict of str to ndarray
        For each band (template,) float64 in MJy/sr per 1e20 cm^-2: the clouds, then ionised gas, then molecular gas
        (per hydrogen nucleus, as the map `nh2` has it).

    Notes
    -----
    Modified black bodies (Cheng et al. 2025, eq. 5) through the values at 857 GHz.

    Examples
    --------
    >>> {band: values.round(3).tolist() for band, values in emissivities(2).items() if band in ("i353", "i857")}
    {'i353': [0.041, 0.027, 0.02, 0.041], 'i857': [0.43, 0.29, 0.215, 0.43]}
    """
    if isinstance(clouds, int):
        if not 1 <= clouds <= len(CLOUDS):
            raise InputError(f"`clouds` {clouds} came; 1 to {len(CLOUDS)} are known.")
        clouds = [cloud.emissivity for cloud in CLOUDS[:clouds]]
    values = np.array([*clouds, hii * clouds[0], clouds[0]], dtype=np.float64)
    at = {name: float(modified_black_body(nu, temperature, beta)) for name, nu in FREQUENCIES.items()}
    return {name: values * (at[name] / at[REFERENCE]) for name in FREQUENCIES}
