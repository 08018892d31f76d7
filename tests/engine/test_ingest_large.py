"""The verb `ingest` on large files, whose memory is measured, and on real ones."""

import subprocess
import sys

import healpy as hp
import numpy as np
import pytest
from skymill.chunking import store as stores
from skymill.chunking.errors import InputError
from skymill.engine.ingest import ingest


def map_of(store, name):
    return np.asarray(stores.open(store)[name])


# Memory

SCRIPT = """
import sys
from skymill.engine.ingest import ingest
from skymill.engine.worker import peak_memory
plan = ingest({"m": sys.argv[1]}, sys.argv[2], threads=2)
plan.run(progress=False)
print(peak_memory(), plan.process_memory())
"""


def large_ring_file(path, nside):
    """Write a RING file whose values tell their pixel, in little memory."""
    from skymill.chunking.fits_write import Output, OutputColumn, allocate, header_bytes
    from skymill.chunking.tiling import Tiling

    columns, tiling = (OutputColumn("I", "MJy/sr", "float32"),), Tiling(nside)
    header = header_bytes(columns, tiling, tiling.npix, frame="icrs", ordering="ring", partial=False, blank="nan")
    output = Output(str(path), tiling, columns, "ring", False, "nan", len(header), tiling.npix)
    allocate(output, header)
    with open(path, "r+b") as file:
        file.seek(output.start)
        for begin in range(0, tiling.npix, 2**22):
            pixels = np.arange(begin, min(begin + 2**22, tiling.npix))
            file.write(((pixels * 2654435761) % 16777213).astype(">f4").tobytes())


def measure(tmp_path, nside):
    large_ring_file(tmp_path / "map.fits", nside)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path / "map.fits"), str(tmp_path / "sky.zarr")],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    peak, planned = map(int, done.stdout.split())
    tiling = stores.tiling_of(tmp_path / "sky.zarr")
    for tile in np.random.default_rng(0).integers(0, tiling.n_tiles, 5).tolist():
        want = hp.nest2ring(nside, tiling.pixels(tile)) * 2654435761 % 16777213
        np.testing.assert_array_equal(stores.read_tile(tmp_path / "sky.zarr", "m", tile), want.astype("f4"))
    return peak, planned


def test_memory_of_a_ring_file_stays_below_the_plan(tmp_path):
    peak, planned = measure(tmp_path, 1024)
    assert peak <= planned
    assert planned < 400e6


@pytest.mark.slow
@pytest.mark.science
def test_memory_does_not_grow_with_the_file(tmp_path):
    peak, planned = measure(tmp_path, 4096)  # 805 MB
    assert peak <= planned
    assert planned < 400e6


# Real maps


@pytest.mark.realdata
def test_real_maps_have_their_known_contrast(tmp_path, real_data):
    folder = real_data / "maps_nside64"
    files = {"ebv": folder / "ebv_sfd_ns64.fits", "nhi": folder / "nhi_hi4pi_ns64.fits"}
    ingest(files, tmp_path / "sky.zarr", frame="galactic", unit={"ebv": "mag", "nhi": "cm^-2"}).run()
    tiling = stores.tiling_of(tmp_path / "sky.zarr")
    latitude = np.abs(tiling.lonlat(np.arange(tiling.npix))[1])
    for name, ratio in (("ebv", 59.6), ("nhi", 32.2)):
        values = map_of(tmp_path / "sky.zarr", name)
        found = np.median(values[latitude < 5]) / np.median(values[latitude > 60])
        assert found == pytest.approx(ratio, rel=5e-3)


@pytest.mark.realdata
def test_real_files_of_every_layout_agree_with_healpy(tmp_path, real_data):
    folder = real_data / "maps_nside64"
    files = {
        "i857": ("gsm2016_nodes_ns64.fits", "I_857GHZ", 5),
        "i850um": ("planck2015_mbb_ns64.fits", "I_353GHZ", 1),
        "q": ("pysm_d1_dust_353GHz_ns64.fits", "Q_STOKES", 1),
    }
    with pytest.raises(InputError, match="I_100GHZ, I_143GHZ"):
        ingest({"m": folder / "gsm2016_nodes_ns64.fits"}, tmp_path / "sky.zarr")
    ingest(
        {name: f"{folder / file}[{column}]" for name, (file, column, _) in files.items()},
        tmp_path / "sky.zarr", frame="galactic",
    ).run()  # fmt: skip
    for name, (file, _, field) in files.items():
        want = hp.read_map(folder / file, field=field, nest=True)
        np.testing.assert_array_equal(map_of(tmp_path / "sky.zarr", name), want.astype("f4"))
