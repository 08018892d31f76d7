"""The digest of a map, which stands for it in the identity of whatever is made from it: numbers and their meaning."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import skymill as sm
from skymill.chunking import store as stores
from skymill.chunking.channels import Channels
from skymill.chunking.errors import IdentityError, InputError
from skymill.chunking.schema import CUBE, MapInfo
from skymill.engine.ledger import map_digest

NSIDE = 4


def made(sky: str, unit: str, factor: float = 2.0) -> str:
    """Return the digest of a map that `prepare` has made, in a unit."""
    step = {"step": "scale", "factor": factor, "unit": unit, "label": "made up"}
    sm.prepare(sky, [{"input": "i350", "output": "a", "steps": [step]}], overwrite=True).run(progress=False)
    return map_digest(sky, "a")


def exported(folder: Path) -> str:
    """Return a FITS file of a cube of two channels."""
    sky, files = str(folder / "own.zarr"), str(folder / "cube.fits")
    stores.create(sky, NSIDE, frame="galactic", tile_nside=1)
    stores.create_channels(sky, Channels.from_edges([-30, 0, 50]))
    stores.create_maps(sky, [MapInfo("n_hi", "column density", "1e20 cm^-2", dims=CUBE)])
    values = np.random.default_rng(1).lognormal(size=(2, 12 * NSIDE**2)).astype("f4")
    for tile in range(12):
        stores.write_tile(sky, "n_hi", tile, values[:, tile * NSIDE**2 : (tile + 1) * NSIDE**2])
    sm.export(sky, ["n_hi"], files, ordering="nested").run(progress=False)
    return files


def test_the_same_numbers_in_another_unit_are_another_map(tmp_path: Path) -> None:
    sky = str(tmp_path / "sky.zarr")
    sm.simulate("dust", sky, NSIDE, seed=1, maps=["i350"]).run(progress=False)
    first = made(sky, "mag")
    assert made(sky, "mmag") != first
    assert made(sky, "mag", 3.0) != first
    assert made(sky, "mag") == first  # and nothing else of the run is in it


def test_the_same_numbers_in_other_channels_are_another_cube(tmp_path: Path) -> None:
    files = exported(tmp_path)
    digests = []
    for number, last in enumerate((30, 40, 30)):
        sky = str(tmp_path / f"{number}.zarr")
        sm.ingest_cube(files, sky, edges=[-30, 0, last]).run(progress=False)
        digests.append(map_digest(sky, "n_hi"))
    assert digests[0] == digests[2]
    assert digests[0] != digests[1]


def test_the_same_numbers_in_another_frame_are_another_map(tmp_path: Path) -> None:
    files = exported(tmp_path)
    digests = []
    for frame in ("galactic", "icrs"):
        sky = str(tmp_path / f"{frame}.zarr")
        sm.ingest_cube(files, sky, edges=[-30, 0, 50], frame=frame, override=["frame"]).run(progress=False)
        digests.append(map_digest(sky, "n_hi"))
    assert digests[0] != digests[1]


def test_a_fit_of_a_store_whose_frame_was_mended_is_made_anew(tmp_path: Path) -> None:
    sky, copy, files = str(tmp_path / "sky.zarr"), str(tmp_path / "copy.zarr"), str(tmp_path / "maps.fits")
    sm.simulate("dust", sky, 8, seed=1, maps=["i350", "i250"]).run(progress=False)
    sm.export(sky, ["i350", "i250"], files, ordering="nested").run(progress=False)
    maps = {name: f"{files}[{name}]" for name in ("i350", "i250")}

    def fitted(frame: str) -> float:
        shutil.rmtree(copy, ignore_errors=True)
        sm.ingest(maps, copy, frame=frame, override=["frame"]).run(progress=False)
        found = sm.fit(copy, "i350", "i250", region="b > 30", out_dir=tmp_path / "fit").run(progress=False)
        return float(found["coefficient"][0, 0])

    fitted("icrs")
    with pytest.raises(IdentityError, match="other inputs"):
        fitted("galactic")


def test_what_is_said_of_a_map_is_part_of_its_run(tmp_path: Path) -> None:
    files, sky = exported(tmp_path), str(tmp_path / "sky.zarr")
    sm.ingest_cube(files, sky, edges=[-30, 0, 50]).run(progress=False)
    with pytest.raises(IdentityError, match="quantity"):
        sm.ingest_cube(files, sky, edges=[-30, 0, 50], quantity="gas")
    own, other = str(tmp_path / "own_dust.zarr"), str(tmp_path / "other.zarr")
    sm.simulate("dust", own, NSIDE, seed=1, maps=["i350"]).run(progress=False)
    sm.export(own, ["i350"], str(tmp_path / "dust.fits"), ordering="nested").run(progress=False)
    maps = {"mine": str(tmp_path / "dust.fits")}
    sm.ingest(maps, other).run(progress=False)
    for option, value in (("quantity", "gas"), ("band", "i350"), ("beam_fwhm_arcmin", 16.2)):
        with pytest.raises(IdentityError, match=option):
            sm.ingest(maps, other, **{option: value})
    assert not sm.ingest(maps, other).todo
    # What goes without saying may be said.
    assert not sm.ingest(maps, other, quantity="intensity").todo
    assert not sm.ingest_cube(files, sky, edges=[-30, 0, 50], quantity="column density").todo


def test_clusters_of_a_cube_whose_unit_was_mended_are_made_anew(tmp_path: Path) -> None:
    files, sky = exported(tmp_path), str(tmp_path / "sky.zarr")

    def clusters(unit: str) -> np.ndarray:
        sm.ingest_cube(
            files, sky, edges=[-30, 0, 50], unit=unit, override=["unit"], overwrite=True
        ).run(progress=False)  # fmt: skip
        found = sm.kmeans(sky, "n_hi", 2, overwrite=True).run(progress=False)
        maps = sum(np.nansum(sm.open(sky)[f"cluster_{number}"].values.astype(float)) for number in (1, 2))
        np.testing.assert_allclose(float(found["column"].sum()), maps, rtol=1e-6)
        return np.array([maps, float(found["inertia"])])

    whole, by_width = clusters("K km/s"), clusters("K")
    assert by_width[0] > 20 * whole[0]  # widths of 30 and 50 km/s
    assert by_width[1] != whole[1]


def test_a_map_that_is_not_there_has_no_digest(tmp_path: Path) -> None:
    sky = str(tmp_path / "sky.zarr")
    stores.create(sky, NSIDE, frame="galactic")
    with pytest.raises(InputError, match="neither metadata nor data"):
        map_digest(sky, "nowhere")
