"""What Lloyd's iterations know of voxels: how attributes are made comparable, and the sums over clusters."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .kmeans_voxels import Floats, Moments, VelocityAxis


@dataclass(frozen=True)
class Scaling:
    """Attributes made comparable: (value - mean) * factor.

    Parameters
    ----------
    mean : numpy.ndarray
        (attribute,) float64.
    factor : numpy.ndarray
        (attribute,) float64 weight over standard deviation; 0 for an attribute that is constant.
    """

    mean: Floats
    factor: Floats

    @classmethod
    def of(cls, moments: Moments, weights: Floats) -> Scaling:
        """Return the scaling to mean 0 and standard deviation `weights` of voxels with these moments."""
        scale = moments.scale
        return cls(moments.mean, np.where(scale > 0, weights / np.where(scale > 0, scale, 1.0), 0.0))

    def scaled(self, values: Floats) -> Floats:
        """Return attributes (..., attribute) in standardised, weighted units."""
        return (values - self.mean) * self.factor

    def physical(self, scaled: Floats) -> Floats:
        """Return attributes (..., attribute) in their own units; the mean, for one that counts nothing."""
        return self.mean + scaled / np.where(self.factor > 0, self.factor, np.inf)

    def scatter(self, moments: Moments) -> float:
        """Return the sum of squared scaled attributes over voxels with these moments."""
        return float((self.factor**2) @ (moments.squares + moments.count * (moments.mean - self.mean) ** 2))


@dataclass(frozen=True)
class Statistics:
    """What is known of voxels given to their nearest centres.

    Parameters
    ----------
    counts : numpy.ndarray
        (cluster, channel) int64 voxels.
    columns : numpy.ndarray
        (cluster, channel) float64 summed columns.
    vectors : numpy.ndarray
        (cluster, 3) float64 summed unit vectors.
    scatter : float
        Sum of squared scaled attributes of all voxels.
    marks : numpy.ndarray
        (cluster,) int64, for each cluster the sum over its voxels of a whole number that stands for the pixel.  With
        `counts` it tells whether any voxel has changed its cluster, which rounded sums cannot.
    """

    counts: NDArray[np.int64]
    columns: Floats
    vectors: Floats
    scatter: float
    marks: NDArray[np.int64]

    @classmethod
    def of(cls, parts: Sequence[Statistics]) -> Statistics:
        """Return the statistics of all parts together: whole numbers are exact, sums rounded once, at their end."""
        return cls(
            np.sum([part.counts for part in parts], axis=0),
            _exactly([part.columns for part in parts]),
            _exactly([part.vectors for part in parts]),
            math.fsum(part.scatter for part in parts),
            np.sum([part.marks for part in parts], axis=0),
        )

    @property
    def numbers(self) -> NDArray[np.int64]:
        """(cluster,) int64 voxels."""
        numbers: NDArray[np.int64] = self.counts.sum(axis=1)
        return numbers

    def sums(self, channels: VelocityAxis, scaling: Scaling) -> Floats:
        """Return the summed scaled attributes, (cluster, attribute) float64."""
        raw = np.column_stack([self.vectors, self.counts @ channels.velocity, self.columns @ (1.0 / channels.width)])
        return (raw - self.numbers[:, None] * scaling.mean) * scaling.factor

    def inertia(self, centres: Floats, channels: VelocityAxis, scaling: Scaling) -> float:
        """Return the summed squared distances of the voxels to the centres of their clusters."""
        gained = 2.0 * (centres * self.sums(channels, scaling)).sum() - self.numbers @ (centres**2).sum(axis=1)
        return max(0.0, self.scatter - float(gained))

    def same_labels(self, other: Statistics) -> bool:
        """Return whether no voxel has another cluster."""
        return bool((self.counts == other.counts).all() and (self.marks == other.marks).all())


def _exactly(parts: Sequence[Floats]) -> Floats:
    """Return the sum of arrays, each element rounded once."""
    stacked = np.stack(parts).reshape(len(parts), -1).T
    return np.array([math.fsum(row) for row in stacked.tolist()]).reshape(parts[0].shape)
