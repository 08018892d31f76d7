"""The steps of a transform against ducc0's and healpy's own, and against themselves cut in another way."""

from __future__ import annotations

from dataclasses import replace

import ducc0
import healpy
import numpy as np
import pytest
from skymill.chunking import store as stores
from skymill.chunking.errors import InputError
from skymill.chunking.schema import MapInfo
from skymill.engine.fields import Field, with_moments_removed
from skymill.engine.gather import from_ring_order, squares_in
from skymill.engine.plan import Run
from skymill.engine.quadrature import ring_weights
from skymill.engine.records import RunReport
from skymill.engine.rings import Layout
from skymill.engine.scratch import FolderScratch
from skymill.engine.stages import Stages
from skymill.engine.transform import GIVEN, BlockTask, MomentsTask, PixelTask, sum_spectra
from skymill.engine.worker import Worker

NSIDE = 64
MISSING = 9  # a tile without values, of 48
PAIRS = ((0, 0), (0, 1), (1, 1))


@pytest.fixture(scope="module")
def sky(tmp_path_factory):
    """A store of two maps, one with holes, and a weight; and the maps in RING order, float64."""
    where = str(tmp_path_factory.mktemp("maps") / "sky.zarr")
    stores.create(where, NSIDE, frame="galactic", tile_nside=2, chunk_nside=4)
    rng = np.random.default_rng(11)
    maps = {name: rng.normal(0.5, 1.0, 12 * NSIDE**2).astype(np.float32) for name in ("a", "b", "holes")}
    maps["weight_w"] = rng.uniform(0, 2, 12 * NSIDE**2).astype(np.float32)
    size = stores.tiling_of(where).tile_npix
    maps["holes"][MISSING * size : (MISSING + 1) * size] = np.nan
    maps["holes"][::17] = np.nan
    maps["weight_w"][::17] = 0
    maps["weight_w"][MISSING * size : (MISSING + 1) * size] = 0
    for name, values in maps.items():
        kind = "weight" if name.startswith("weight") else "intensity"
        stores.create_maps(where, [MapInfo(name, kind, "1")])
        for tile in range(48):
            if np.isfinite(values[tile * size : (tile + 1) * size]).any():
                stores.write_tile(where, name, tile, values[tile * size : (tile + 1) * size])
    return where, {name: healpy.reorder(values, n2r=True).astype(float) for name, values in maps.items()}


def layout_of(where, lmax, precision, **changes):
    return replace(Layout.of(stores.tiling_of(where), lmax, precision), **changes)


def stages_in(folder, threads=2):
    run = Run(None, Worker.here(threads=threads, memory=10**9), False)
    return Stages(FolderScratch(str(folder)), run, RunReport("test", "nowhere"))


def spectra_of(folder, layout, fields, pairs=PAIRS, threads=2, **options):
    """Return the spectra that the stages find, and what the bands noted."""
    stages = stages_in(folder, threads)
    rings, start, noted = stages.analyse(layout, fields, **options)
    labels = tuple(field.label for field in fields)
    stages.go(
        BlockTask(layout, stages.scratch, "spectra", labels, rings, start, pairs=pairs), range(layout.n_blocks), ""
    )
    return sum_spectra(stages.scratch, "spectra", layout, len(pairs)), noted


def fields_of(where, *names, **options):
    return tuple(Field(f"f{number}", (where, name), **options) for number, name in enumerate(names))


def ring_geometry(layout):
    rings = layout.rings
    return {"theta": rings.theta, "nphi": rings.nphi, "phi0": rings.phi0, "ringstart": rings.start}


def analysed(layout, values, weights=None):
    """Return a_lm of ducc0 in one piece, weights a number for each row."""
    factor = np.ones(layout.n_rows) if weights is None else weights
    weighted = values * np.repeat(factor, layout.rings.nphi.astype(int)) * layout.tiling.pixel_area
    geometry = ring_geometry(layout)
    return ducc0.sht.adjoint_synthesis(map=weighted[None], spin=0, lmax=layout.lmax, **geometry)[0]


def synthesized(layout, alm):
    return ducc0.sht.synthesis(alm=alm[None], spin=0, lmax=layout.lmax, **ring_geometry(layout))[0]


@pytest.mark.parametrize(("precision", "limit"), [("double", 1e-12), ("single", 1e-6)])
@pytest.mark.parametrize("lmax", [0, 7, 2 * NSIDE, 3 * NSIDE - 1])
def test_spectra_are_those_of_ducc0_and_healpy(tmp_path, sky, lmax, precision, limit):
    where, maps = sky
    layout = layout_of(where, lmax, precision, width=24)
    found, noted = spectra_of(tmp_path, layout, fields_of(where, "a", "b"), ring_weights=False)
    one, other = (analysed(layout, maps[name]) for name in "ab")
    known = np.array([healpy.alm2cl(one), healpy.alm2cl(one, other), healpy.alm2cl(other)])
    scale = np.array([known[0], np.sqrt(known[0] * known[2]), known[2]])
    assert np.abs((found - known) / scale).max() < limit
    theirs = healpy.anafast(maps["a"], lmax=lmax, iter=0, pol=False)
    assert np.abs(found[0] / theirs - 1).max() < limit
    assert sum(facts["missing"]["f0"] for facts in noted) == 0


@pytest.mark.parametrize(("precision", "limit"), [("double", 1e-12), ("single", 3e-6)])
def test_ring_weights_and_iterations_are_those_of_a_transform_in_one_piece(tmp_path, sky, precision, limit):
    where, maps = sky
    layout = layout_of(where, 2 * NSIDE, precision, width=24)
    weights = ring_weights(NSIDE)
    known = analysed(layout, maps["a"], weights)
    spectra = [healpy.alm2cl(known)]
    for _ in range(2):
        known = known + analysed(layout, maps["a"] - synthesized(layout, known), weights)
        spectra.append(healpy.alm2cl(known))
    for rounds, wanted in enumerate(spectra):
        found, _ = spectra_of(tmp_path / str(rounds), layout, fields_of(where, "a"), ((0, 0),), iterations=rounds)
        assert np.abs(found[0] / wanted - 1).max() < limit
    assert all(np.abs(spectra[k] / spectra[k + 1] - 1).max() > 1e-5 for k in (0, 1))  # each round does something


def test_iterations_are_those_of_healpy(tmp_path, sky):
    where, maps = sky
    layout = layout_of(where, 2 * NSIDE, "double", width=40)
    found, _ = spectra_of(tmp_path, layout, fields_of(where, "a"), ((0, 0),), ring_weights=False, iterations=3)
    known = healpy.anafast(maps["a"], lmax=layout.lmax, iter=3, pol=False)
    assert np.abs(found[0] / known - 1).max() < 1e-12


def test_weights_and_missing_pixels(tmp_path, sky):
    """A map times a weight, the weight alone, and where the map has values; and the sums that are noted."""
    where, maps = sky
    layout = layout_of(where, NSIDE, "double", width=24)
    weight, holes = (where, "weight_w"), (where, "holes")
    fields = (Field("m", holes, weight), Field("w", None, weight), Field("p", holes, present=True), Field("h", holes))
    pairs = tuple((number, number) for number in range(4))
    found, noted = spectra_of(tmp_path, layout, fields, pairs, ring_weights=False)
    values, weights = maps["holes"], maps["weight_w"]
    wanted = [np.nan_to_num(values) * weights, weights, np.isfinite(values).astype(float), np.nan_to_num(values)]
    for number, each in enumerate(wanted):
        known = healpy.alm2cl(analysed(layout, each))
        np.testing.assert_allclose(found[number], known, rtol=1e-11)
    missing = {label: sum(facts["missing"][label] for facts in noted) for label in "mwph"}
    absent = int(np.isnan(values).sum())
    assert missing == {"m": 0, "w": 0, "p": absent, "h": absent}
    key = "|weight_w:" + where
    sums = np.sum([piece for facts in noted for piece in facts["moments"][key]], axis=0)
    np.testing.assert_allclose(sums, [weights.sum(), (weights**2).sum()], rtol=1e-12)


@pytest.mark.parametrize("removal", ["monopole", "dipole"])
def test_monopole_and_dipole_are_taken_off_as_healpy_does_it(tmp_path, sky, removal):
    where, maps = sky
    layout = layout_of(where, NSIDE, "double", width=24)
    stages = stages_in(tmp_path)
    fields = fields_of(where, "holes")
    facts = stages.go(MomentsTask(layout, stages.scratch, "moments", fields), range(layout.n_bands), "")
    sums = {"f0": np.sum([piece for each in facts for piece in each["sums"]["f0"]], axis=0)}
    # `healpy` knows only 0 and 1, so the missing pixels are the mask; here they are the weight.
    present = np.isfinite(maps["holes"])
    table = sums["f0"].copy()
    assert table[0, 0] == maps["holes"].size  # without a weight all pixels count, with 0 where there is no value
    found = with_moments_removed(fields, layout, removal, sums)[0].removed
    assert len(found) == (1 if removal == "monopole" else 4)
    filled = np.where(present, maps["holes"], 0.0)
    if removal == "monopole":
        assert found[0] == pytest.approx(filled.mean(), rel=1e-10)
    else:
        monopole, dipole = healpy.fit_dipole(filled)
        np.testing.assert_allclose(found, [monopole, *dipole], rtol=1e-8, atol=1e-12)


def _drawn(lmax, rng):
    size = healpy.Alm.getsize(lmax)
    alm = rng.normal(size=size) + 1j * rng.normal(size=size)
    alm[: lmax + 1] = alm[: lmax + 1].real
    return alm


def put_alm(scratch, layout, alm, stage="given-alm", label="f0"):
    """Write a_lm as a stage of blocks would have left them."""
    for block in range(layout.n_blocks):
        first, stop = layout.orders(block)
        harmonic = np.zeros((stop - first, layout.lmax + 1), dtype=layout.harmonic)
        for order in range(first, stop):
            begin = healpy.Alm.getidx(layout.lmax, order, order)
            harmonic[order - first, order:] = alm[begin : begin + layout.lmax + 1 - order]
        scratch.write(f"{stage}/{label}-alm/{block}", [harmonic[:, first:]])


def map_from(stages, layout, **options):
    """Return the map in RING order that comes of a_lm which are there, and of its tiles."""
    step = BlockTask(layout, stages.scratch, "back", ("f0",), start="given-alm", back=True, **options)
    stages.go(step, range(layout.n_blocks), "orders")
    stages.go(PixelTask(layout, stages.scratch, "pixels", ("f0",), "back"), range(layout.n_bands), "pixels")
    tiling = layout.tiling
    nested = np.empty(tiling.npix, dtype=layout.real)
    for tile in range(tiling.n_tiles):
        pieces = []
        for band in range(layout.n_bands):
            there = squares_in(tiling.nside, tiling.tile_nside, layout.rows(band)).tolist()
            if tile in there:
                pieces.append(stages.scratch.read(f"pixels/f0/{band}", there.index(tile), len(there), layout.real))
        nested[tile * tiling.tile_npix : (tile + 1) * tiling.tile_npix] = from_ring_order(np.concatenate(pieces))
    return healpy.reorder(nested, n2r=True)


@pytest.mark.parametrize(("precision", "limit"), [("double", 1e-12), ("single", 2e-6)])
@pytest.mark.parametrize("lmax", [0, 7, 2 * NSIDE, 3 * NSIDE - 1])
def test_maps_are_those_of_ducc0(tmp_path, sky, lmax, precision, limit):
    where, _ = sky
    layout = layout_of(where, lmax, precision, width=24)
    stages = stages_in(tmp_path)
    alm = _drawn(lmax, np.random.default_rng(lmax))
    put_alm(stages.scratch, layout, alm)
    found, known = map_from(stages, layout), synthesized(layout, alm)
    assert found.dtype == layout.real
    assert np.abs(found - known).max() < limit * max(1.0, known.std())


def test_a_transfer_function_multiplies_the_harmonics(tmp_path, sky):
    where, _ = sky
    layout = layout_of(where, NSIDE, "double", width=24)
    stages = stages_in(tmp_path)
    alm = _drawn(NSIDE, np.random.default_rng(2))
    transfer = np.linspace(1.0, 0.1, NSIDE + 1)
    put_alm(stages.scratch, layout, alm)
    stages.scratch.write(f"{GIVEN}/beam/0", [transfer])
    found = map_from(stages, layout, transfer="beam")
    known = synthesized(layout, healpy.almxfl(alm, transfer))
    assert np.abs(found - known).max() < 1e-12 * known.std()


@pytest.mark.parametrize("precision", ["single", "double"])
def test_the_same_bytes_for_any_band_and_any_number_of_threads(tmp_path, sky, precision):
    where, _ = sky
    base = layout_of(where, 3 * NSIDE - 1, precision, width=16)
    spectra, pixels, kept = [], [], []
    for number, (height, threads) in enumerate([(16, 1), (32, 2), (256, 1)]):
        layout = replace(base, height=height)
        kept.append(sum(layout.stored_blocks(band) for band in range(layout.n_bands)) / layout.n_bands)
        folder = tmp_path / str(number)
        fields = fields_of(where, "a", "b")
        spectra.append(spectra_of(folder, layout, fields, threads=threads, iterations=1)[0].tobytes())
        stages = stages_in(folder, threads)
        put_alm(stages.scratch, layout, _drawn(layout.lmax, np.random.default_rng(4)))
        pixels.append(map_from(stages, layout).tobytes())
    assert len(set(kept)) == 3  # they differ in what they leave out
    assert len(set(spectra)) == 1
    assert len(set(pixels)) == 1


@pytest.mark.parametrize("rounds", [0, 1, 2, 3])
def test_scratch_space_takes_what_was_said(tmp_path, sky, rounds):
    where, _ = sky
    layout = layout_of(where, 2 * NSIDE, "single", width=16)
    most = [0]

    class Measured(FolderScratch):
        def write(self, key, parts):
            super().write(key, parts)
            objects = [path for path in tmp_path.rglob("*/f?*/*") if path.is_file()]
            most[0] = max(most[0], sum(path.stat().st_size for path in objects))

    stages = stages_in(tmp_path, threads=1)
    stages.scratch = Measured(str(tmp_path))
    rings, start, _ = stages.analyse(layout, fields_of(where, "a", "b"), iterations=rounds)
    stages.go(BlockTask(layout, stages.scratch, "s", ("f0", "f1"), rings, start, pairs=((0, 1),)), range(9), "")
    said = layout.scratch_bytes(2, rounds)
    index = 2 * 2 * layout.n_bands * (24 * layout.n_blocks + 8) * 2
    assert 0.95 * said < most[0] < said + index


def test_a_step_that_is_done_is_not_done_again_and_a_refusal_is_told(tmp_path, sky):
    where, _ = sky
    layout = layout_of(where, 16, "single")
    stages = stages_in(tmp_path)
    step = MomentsTask(layout, stages.scratch, "moments", fields_of(where, "a"))
    first, again = step(3), step(3)
    assert (first.status, again.status) == ("computed", "verified")
    assert first.statistics == again.statistics
    negative = Field("f0", (where, "a"), (where, "b"))  # a weight must not be negative
    with pytest.raises(InputError, match="a weight is a finite number from 0"):
        stages.go(MomentsTask(layout, stages.scratch, "refused", (negative,)), range(layout.n_bands), "")
