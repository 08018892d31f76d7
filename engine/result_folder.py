"""A dataset kept in a folder beside its report: written whole or not at all, known again by the facts of its run."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..chunking.errors import FormatError, IdentityError, InputError
from .report import plain

if TYPE_CHECKING:
    import xarray as xr

_FACTS = "skymill_run"
_DIGEST = "skymill_numbers"


@dataclass(frozen=True)
class ResultFolder:
    """Where a verb keeps a result.

    Parameters
    ----------
    what : str
        What it is, for messages: "fit".
    data, report : str
        Names of the Zarr group, and of the file that is written last.
    """

    what: str
    data: str
    report: str

    def write(self, dataset: xr.Dataset, folder: Path, facts: Mapping[str, Any]) -> None:
        """Write the dataset with the facts that determine it; the report is taken away, until it is written again.

        Parameters
        ----------
        dataset : Dataset
            The result.
        folder : path
            Where; it is there already.
        facts : mapping
            JSON-able.
        """
        (folder / self.report).unlink(missing_ok=True)
        final, partial = folder / self.data, folder / f"{self.data}.partial"
        if partial.exists():
            shutil.rmtree(partial)
        about = {_FACTS: json.dumps(_settled(facts), sort_keys=True), _DIGEST: _digest(dataset)}
        known = dataset.assign_attrs(about)
        known.to_zarr(partial, mode="w", consolidated=False, zarr_format=3)
        if final.is_symlink() or final.is_file():
            final.unlink()
        elif final.exists():
            shutil.rmtree(final)
        partial.rename(final)

    def read(self, out_dir: str | os.PathLike[str]) -> xr.Dataset:
        """Return the dataset, read into memory.

        Parameters
        ----------
        out_dir : path
            The folder, or the Zarr group in it.

        Raises
        ------
        FormatError
            If there is none, or it cannot be read.
        """
        import xarray as xr

        path = Path(out_dir)
        path = path if path.name == self.data else path / self.data
        try:
            with xr.open_zarr(path, consolidated=False, zarr_format=3, chunks=None) as opened:
                dataset: xr.Dataset = opened.load()
        except Exception as error:  # zarr and xarray raise whatever they stumble over
            raise FormatError(
                f"{path} cannot be read as a {self.what} ({type(error).__name__}: {error}). Give the `out_dir` of a "
                f"{self.what}, or make it again with overwrite=True (--overwrite)."
            ) from error
        dataset.attrs.pop(_FACTS, None)
        recorded = dataset.attrs.pop(_DIGEST, None)
        if recorded not in (None, _digest(dataset)):  # of an earlier version there is none
            raise FormatError(
                f"{path} does not hold the numbers that were written there: a file of it is damaged or lost. Make the "
                f"{self.what} again with overwrite=True (--overwrite)."
            )
        return dataset

    def finished(
        self, out_dir: str | os.PathLike[str], facts: Mapping[str, Any], *, overwrite: bool = False
    ) -> xr.Dataset | None:
        """Return the result of this very run where it is finished, and None where it is to be made.

        Parameters
        ----------
        out_dir : path
            The folder.
        facts : mapping
            Those of this run.
        overwrite : bool
            Whether what another run made may be replaced.

        Raises
        ------
        InputError
            If what is there is a file and no folder.
        IdentityError
            If another run has made what is there, and `overwrite` is not set.
        FormatError
            If what is there cannot be read, and `overwrite` is not set.
        """
        folder = Path(out_dir)
        for path in (folder, *folder.parents):
            if path.exists():
                if not path.is_dir():
                    raise InputError(f"`out_dir` {folder} came, but {path} is a file; give the path of a folder.")
                break
        if not os.path.lexists(folder / self.data):
            return None
        now = _settled(facts)
        try:
            before = self._facts(folder / self.data)
            if before == now:
                return self.read(folder) if (folder / self.report).exists() else None
        except FormatError:
            if overwrite:
                return None
            raise
        if overwrite:
            return None
        raise IdentityError(
            f"the {self.what} in {folder} was made by another run (other {', '.join(_differing(before, now))}); give "
            "another `out_dir`, or overwrite=True (--overwrite) to replace it."
        )

    def _facts(self, path: Path) -> dict[str, Any]:
        try:
            attributes = json.loads((path / "zarr.json").read_text())["attributes"]
            known: dict[str, Any] = json.loads(attributes[_FACTS])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise FormatError(
                f"{path} is no {self.what}, or a damaged one ({type(error).__name__}: {error}); give another "
                "`out_dir`, or overwrite=True (--overwrite) to replace it."
            ) from error
        return known


def _digest(dataset: xr.Dataset) -> str:
    """Return a digest of all numbers of a dataset: Zarr reads a file that is lost as NaN or 0, without a word."""
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(map(str, dataset.variables)):
        values = dataset.variables[name].values
        if values.dtype.kind in "biuf":
            digest.update(f"{name} {values.dtype} {values.shape} ".encode())
            digest.update(np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()


def _settled(facts: Mapping[str, Any]) -> dict[str, Any]:
    known: dict[str, Any] = json.loads(json.dumps(plain(dict(facts))))
    return known


def _differing(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return the names of the facts in which two runs differ, of the parameters each by its own."""
    found = []
    for key in sorted(key for key in {*before, *now} if before.get(key) != now.get(key)):
        there, here = before.get(key), now.get(key)
        if key == "parameters" and isinstance(there, Mapping) and isinstance(here, Mapping):
            found += _differing(there, here)
        else:
            found.append(key)
    return found
