"""Tiles and rows of FITS maps, against healpy and astropy."""

import tracemalloc

import healpy as hp
import numpy as np
import pytest
from fitsfiles import some_map, write_table
from hypothesis import given, settings
from hypothesis import strategies as st
from skymill.chunking import fits_read
from skymill.chunking.errors import FormatError
from skymill.chunking.fits_map import describe
from skymill.chunking.fits_read import iterate_rows, read_tile, tile_memory
from skymill.chunking.tiling import Tiling

UNSEEN = -1.6375e30


def whole(maps, ordering, tiling):
    tiles = [read_tile(maps, ordering, tiling, tile)[0] for tile in range(tiling.n_tiles)]
    return [np.concatenate([tile[index] for tile in tiles]) for index in range(len(maps))]


@st.composite
def files(draw):
    order = draw(st.integers(1, 5))
    npix = 12 * 4**order
    repeats = [r for r in (1, 2, 3, 16, 48, 1024) if npix % r == 0]
    return {
        "nside": 2**order,
        "tile_nside": 2 ** draw(st.integers(0, order)),
        "ordering": draw(st.sampled_from(["RING", "NESTED"])),
        "codes": draw(st.lists(st.sampled_from("EDIJK"), min_size=1, max_size=4)),
        "repeat": draw(st.sampled_from(repeats)),
        "chosen": draw(st.integers(0, 14)),
        "read_bytes": draw(st.sampled_from([64, 1000, 2**20])),
    }


@settings(max_examples=50, deadline=None)
@given(files())
def test_every_layout_gives_what_healpy_reads(tmp_path_factory, case):
    npix = 12 * case["nside"] ** 2
    columns = {}
    for number, code in enumerate(case["codes"]):
        values = np.random.default_rng(number).integers(-1000, 1000, npix)
        columns[f"C{number}"] = (f"{case['repeat']}{code}", values.astype({"E": "f4", "D": "f8"}.get(code, "i2")))
    path = write_table(
        tmp_path_factory.mktemp("fits") / "map.fits", columns, NSIDE=case["nside"], ORDERING=case["ordering"]
    )
    names = [name for number, name in enumerate(columns) if case["chosen"] >> number & 1] or ["C0"]
    maps = [describe(f"{path}[{name}]") for name in names]
    tiling = Tiling(case["nside"], tile_nside=case["tile_nside"])
    usual = fits_read.READ_BYTES
    fits_read.READ_BYTES = case["read_bytes"]  # many small batches must not change anything
    try:
        found = whole(maps, case["ordering"].lower(), tiling)
    finally:
        fits_read.READ_BYTES = usual
    for name, values in zip(names, found, strict=True):
        np.testing.assert_array_equal(values, hp.read_map(path, field=int(name[1:]), nest=True).astype("f4"))


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("nest", [False, True])
@pytest.mark.parametrize("idl", [False, True])
def test_files_of_healpy(tmp_path, dtype, nest, idl):
    values = [some_map(32, seed, dtype) for seed in range(3)]
    values[1][::5] = UNSEEN
    hp.write_map(tmp_path / "iqu.fits", values, nest=nest, fits_IDL=idl, dtype=np.dtype(dtype), column_units="K_CMB")
    tiling = Tiling(32, tile_nside=4)
    found = whole([describe(f"{tmp_path / 'iqu.fits'}[{i}]") for i in (1, 2)], "nested" if nest else "ring", tiling)
    for want, got in zip(values[:2], found, strict=True):
        want = np.where(want == want.dtype.type(UNSEEN), np.nan, want).astype("f4")
        want = want if nest else want[hp.nest2ring(32, np.arange(want.size))]
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("ordering", ["ring", "nested"])
@pytest.mark.parametrize("repeat", [1, 10])
def test_a_range_of_pixels_leaves_the_others_without_value(tmp_path, ordering, repeat):
    values = some_map(8)
    window = slice(100, 330)
    path = write_table(
        tmp_path / "map.fits",
        {"I": (f"{repeat}E", values[window]), "Q": (f"{repeat}E", values[window])},
        NSIDE=8, ORDERING=ordering.upper(), FIRSTPIX=window.start, LASTPIX=window.stop - 1,
    )  # fmt: skip
    want = np.full(values.size, np.nan, "f4")
    want[window] = values[window]
    if ordering == "ring":
        want = want[hp.nest2ring(8, np.arange(want.size))]
    (found,) = whole([describe(f"{path}[Q]")], ordering, Tiling(8, tile_nside=2))
    np.testing.assert_array_equal(found, want)


def test_infinite_values_are_counted_for_each_map(tmp_path):
    one, two = some_map(8), some_map(8, 1)
    one[:3], two[5] = np.inf, -np.inf
    path = write_table(tmp_path / "map.fits", {"A": ("E", one), "B": ("E", two)}, NSIDE=8)
    values, infinite = read_tile([describe(f"{path}[A]"), describe(f"{path}[B]")], "nested", Tiling(8), 0)
    assert infinite == [3, 1]
    assert np.isnan(values[0][:3]).all()
    assert np.isnan(values[1][5])


@pytest.mark.parametrize("ordering", ["ring", "nested"])
def test_a_file_cut_while_it_is_read(tmp_path, ordering):
    path = tmp_path / "map.fits"
    found = describe(write_table(path, {"I": ("E", some_map(32))}, NSIDE=32))
    data = path.read_bytes()
    path.write_bytes(data[: found.start + 20000])
    with pytest.raises(FormatError, match="cut while it was read"):
        whole([found], ordering, Tiling(32))


@pytest.mark.parametrize("ordering", ["ring", "nested"])
@pytest.mark.parametrize("codes", ["E", "EEEEEEEEEEE", "DD"])
def test_the_memory_of_a_tile_is_what_the_plan_says(tmp_path, ordering, codes):
    nside, tile_nside = 512, 2
    columns = {f"C{number}": (code, some_map(nside, dtype="f4")) for number, code in enumerate(codes)}
    maps = [describe(write_table(tmp_path / "map.fits", columns, NSIDE=nside) + "[C0]")]
    tiling = Tiling(nside, tile_nside=tile_nside)
    fits_read.ring_order.cache_clear()
    tracemalloc.start()
    try:
        read_tile(maps, ordering, tiling, 17)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    planned = sum(tile_memory(maps, ordering, tiling).values()) + 4 * tiling.tile_npix
    assert peak <= planned + 600_000  # lists of positions, and the interpreter's own
    assert peak > planned / 4  # the plan is no wild guess


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from("BIJK"), st.sampled_from([1, 4]), st.integers(1, 30), st.sampled_from([1, 7, 1000]), st.booleans()
)
def test_rows_of_explicit_tables(tmp_path_factory, code, repeat, rows, block, packed):
    pixels = (
        np.random.default_rng(rows).permutation(120)[: rows * repeat].astype({"B": "u1", "I": "i2"}.get(code, "i4"))
    )
    values = np.arange(pixels.size) * 0.5
    values[0] = UNSEEN
    path = tmp_path_factory.mktemp("fits") / ("map.fits.gz" if packed else "map.fits")
    columns = {"PIXEL": (f"{repeat}{code}", pixels), "I": (f"{repeat}E", values), "N": (f"{repeat}J", pixels)}
    write_table(path, columns, NSIDE=4, INDXSCHM="EXPLICIT")
    maps = [describe(f"{path}[I]"), describe(f"{path}[N]")]
    usual = fits_read.ROWS
    fits_read.ROWS = block * repeat
    try:
        blocks = list(iterate_rows(maps))
        bare = list(iterate_rows(maps[:1], values=False))
    finally:
        fits_read.ROWS = usual
    assert [b.row for b in blocks] == list(range(0, rows, block))
    np.testing.assert_array_equal(np.concatenate([b.pixels for b in blocks]), pixels)
    np.testing.assert_array_equal(np.concatenate([b.pixels for b in bare]), pixels)
    found = np.concatenate([b.values for b in blocks], axis=1)
    np.testing.assert_array_equal(found[1], pixels.astype("f4"))
    np.testing.assert_array_equal(found[0][1:], values[1:].astype("f4"))
    assert np.isnan(found[0][0])


def test_unsigned_pixel_numbers(tmp_path):
    for code, dtype, zero in (("J", "i4", 2.0**31), ("K", "i8", 2.0**63)):
        stored = (np.array([5, 191], "u8") - np.uint64(int(zero))).astype("u8").astype("i8").astype(dtype)
        path = tmp_path / f"{code}.fits"
        write_table(path, {"PIXEL": (code, stored), "I": ("E", [1, 2])}, NSIDE=4, INDXSCHM="EXPLICIT", ZERO=zero)
        path.write_bytes(path.read_bytes().replace(b"ZERO    =", b"TZERO1  ="))  # astropy would scale the numbers
        (block,) = iterate_rows([describe(path)])
        assert block.pixels.tolist() == [5, 191]


@pytest.mark.parametrize(("wrong", "row"), [(-1, 3), (192, 1), (2**31 - 1, 5)])
def test_a_pixel_that_is_none_is_named_with_its_row(tmp_path, wrong, row):
    pixels = np.arange(6)
    pixels[row - 1] = wrong
    path = write_table(tmp_path / "m.fits", {"PIXEL": ("J", pixels), "I": ("E", pixels)}, NSIDE=4, INDXSCHM="EXPLICIT")
    with pytest.raises(FormatError, match=rf"row {row}: pixel number {wrong} is none of NSIDE 4"):
        list(iterate_rows([describe(path)]))
