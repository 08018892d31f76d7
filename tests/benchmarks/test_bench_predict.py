"""Prediction over the full sky against a bare loop, the naive road, and other libraries, in one run."""

from __future__ import annotations

import os
import shutil
import time
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import skymill as sm
from skies import BANDS
from skymill.chunking import store as stores
from skymill.chunking.schema import FLAGS, MapInfo
from skymill.engine.worker import available_cores
from skymill.models import Model, Predictor, dust_mlp, load_model, save_model
from timing import REPEATS, dusty_sky, median_seconds, show

NSIDE = int(os.environ.get("SKYMILL_BENCH_NSIDE", "4096"))
LABELS = ("850um", "1380um")
OUTPUTS = tuple(f"{kind}_{label}" for label in LABELS for kind in ("pred", "flag"))

pytestmark = [pytest.mark.bench, pytest.mark.timeout(3600)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bench")
    for label in LABELS:
        save_model(folder / label, Model.untrained(dust_mlp(label), seed=1))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def models(folder):
    return [folder / label for label in LABELS]


def bare_loop(sky, out, predictor, threads):
    """The same tiles, kernel and threads, and nothing else: no plan, ledger, digest, overview or report."""
    shutil.rmtree(out, ignore_errors=True)
    grid = stores.tiling_of(sky)
    stores.create(out, grid.nside, frame="galactic")
    stores.create_maps(
        out,
        [
            MapInfo(f"pred_{label}", "intensity", "MJy/sr") if kind == "pred" else
            MapInfo(f"flag_{label}", "flags", "1", dtype="uint8", fill_value=FLAGS["no_coverage"])
            for label in LABELS
            for kind in ("pred", "flag")
        ],
    )  # fmt: skip

    def one(tile):
        result = predictor({name: stores.read_tile(sky, name, tile) for name in BANDS})
        for label, (values, flags) in result.items():
            stores.write_tile(out, f"pred_{label}", tile, values)
            stores.write_tile(out, f"flag_{label}", tile, flags)

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(one, range(grid.n_tiles)))


def test_full_sky_against_a_bare_loop(folder):
    sky = dusty_sky(folder / "sky.zarr", NSIDE)
    grid, out, threads = stores.tiling_of(sky), folder / "out.zarr", available_cores()
    predictor = Predictor([load_model(path) for path in models(folder)])
    predictor({name: np.ones(10, "f4") for name in BANDS})  # compile

    def engine(client=None):
        return sm.predict(models(folder), sky, out=out).run(client, progress=False)

    def clear():
        shutil.rmtree(out, ignore_errors=True)

    for name in BANDS:  # into the page cache
        for tile in range(grid.n_tiles):
            stores.read_tile(sky, name, tile)
    bare, ours = [], []
    for _ in range(REPEATS):  # in turns, so that a noisy machine is noisy for both
        bare.append(median_seconds(lambda: bare_loop(sky, out, predictor, threads), 1))
        ours.append(median_seconds(engine, 1, clear))
    loop, here = float(np.median(bare)), float(np.median(ours))
    report = _report(engine, clear)
    rows = [("bare loop, same kernel, threads and tiles", loop, loop / grid.npix * 1e9, 1.0)]
    rows.append((f"skymill, this process, {threads} threads", here, here / grid.npix * 1e9, here / loop))
    for workers, each in ((1, threads), (threads, 1)):
        with sm.connect(workers=workers, threads=each) as client:
            engine(client)  # every worker loads and compiles once
            seconds = median_seconds(lambda c=client: engine(c), REPEATS, clear)
        rows.append((f"skymill, Dask, {workers} x {each}", seconds, seconds / grid.npix * 1e9, seconds / loop))
    phases = {key: value / grid.npix * 1e9 for key, value in report.seconds.items() if key != "wall"}
    show(
        f"Prediction at nside {NSIDE}, 4 bands to 2 maps, full sky",
        ("road", "wall s", "ns a pixel", "ratio to the bare loop"),
        rows,
        [
            "task time by phase, ns a pixel of one thread: " + ", ".join(f"{k} {v:.1f}" for k, v in phases.items()),
            f"overhead of the engine a tile: {(here - loop) * threads / grid.n_tiles * 1e3:.2f} ms of a thread "
            f"({grid.n_tiles} tiles)",
            f"peak memory {report.peak_memory / 1e6:.0f} MB, planned {report.planned_memory / 1e6:.0f} MB",
        ],
    )
    assert report.counts == {"computed": grid.n_tiles}


def _report(engine, clear):
    clear()
    return engine()


def test_against_the_naive_road(folder):
    """`xr.apply_ufunc` over Dask chunks with a Flax model, then `to_zarr`."""
    flax = pytest.importorskip("flax.linen")
    import jax
    import xarray as xr

    nside = NSIDE // 2
    sky = dusty_sky(folder / "naive.zarr", nside)
    grid, out = stores.tiling_of(sky), folder / "naive-out.zarr"
    applied = {}
    for label in LABELS:
        model = load_model(folder / label)

        class Network(flax.Module):
            sizes: tuple[int, ...] = model.spec.sizes[1:]

            @flax.compact
            def __call__(self, x):
                for size in self.sizes[:-1]:
                    x = jax.numpy.tanh(flax.Dense(size)(x))
                return flax.Dense(self.sizes[-1])(x)

        tree = {
            "params": {
                f"Dense_{k}": {"kernel": np.asarray(layer[0]).T, "bias": np.asarray(layer[1])}
                for k, layer in enumerate(model.parameters)
            }
        }
        network, scaling = Network(), model.scaling

        @jax.jit
        def run(x, network=network, tree=tree, scaling=scaling):
            z = (jax.numpy.log(x) - np.float32(scaling.centre)) / np.float32(scaling.scale)
            y = network.apply(tree, z)[..., 0]
            return jax.numpy.exp(y * np.float32(scaling.output_scale) + np.float32(scaling.output_centre))

        applied[label] = run

    def naive():
        dataset = stores.open(sky)
        stacked = xr.concat([dataset[name] for name in BANDS], "band").transpose("cells", "band").chunk(band=-1)
        made = xr.Dataset(
            {
                f"pred_{label}": xr.apply_ufunc(
                    lambda x, run=run: np.asarray(run(x)),
                    stacked,
                    input_core_dims=[["band"]],
                    dask="parallelized",
                    output_dtypes=["f4"],
                )
                for label, run in applied.items()
            }
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made.drop_attrs().to_zarr(out, mode="w", consolidated=False)

    def engine():
        return sm.predict(models(folder), sky, out=folder / "ours.zarr").run(progress=False)

    naive()
    engine()
    a = stores.open(folder / "ours.zarr")["pred_1380um"][: grid.tile_npix].values
    b = xr.open_zarr(out, consolidated=False)["pred_1380um"][: grid.tile_npix].values
    np.testing.assert_allclose(a, b, rtol=2e-5)
    slow = median_seconds(naive)
    fast = median_seconds(engine, REPEATS, lambda: shutil.rmtree(folder / "ours.zarr"))
    show(
        f"Against the naive road at nside {nside}",
        ("road", "wall s", "ns a pixel", "times slower than skymill"),
        [
            ("skymill, this process", fast, fast / grid.npix * 1e9, 1.0),
            ("xr.apply_ufunc with Flax, then to_zarr", slow, slow / grid.npix * 1e9, slow / fast),
        ],
    )


def test_against_scikit_learn(folder):
    """`predict` of scikit-learn on arrays in memory, against ours with input from and output to disk."""
    from sklearn.neural_network import MLPRegressor
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import RobustScaler

    nside = NSIDE // 4
    sky = dusty_sky(folder / "small.zarr", nside)
    dataset = stores.open(sky)
    x = np.stack([dataset[name].values for name in BANDS], axis=1)
    rows = []
    for label, hidden in (("850um", (12, 8)), ("1380um", (60, 30))):
        pipeline = make_pipeline(RobustScaler(), MLPRegressor(hidden_layer_sizes=hidden, activation="tanh", max_iter=1))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pipeline.fit(np.log(x[:1000]), np.log(x[:1000, 0]))
        theirs = median_seconds(lambda p=pipeline: np.exp(p.predict(np.log(x))))

        def ours(label=label):
            sm.predict(folder / label, sky, out=folder / "sk.zarr").run(progress=False)

        ours()
        mine = median_seconds(ours, REPEATS, lambda: shutil.rmtree(folder / "sk.zarr"))
        rows.append((label, theirs / x.shape[0] * 1e9, mine / x.shape[0] * 1e9, theirs / mine))
    show(
        f"Against scikit-learn at nside {nside}",
        ("network", "scikit-learn in memory, ns a pixel", "skymill, disk to disk, ns a pixel", "ratio"),
        rows,
    )


def test_the_kernel_alone(folder):
    """Nanoseconds a pixel of one thread, NumPy in to NumPy out."""
    rng = np.random.default_rng(0)
    bands = {name: rng.lognormal(2, 1, 1 << 22).astype("f4") for name in BANDS}
    rows = []
    for chosen in (LABELS[:1], LABELS[1:], LABELS):
        predictor = Predictor([load_model(folder / label) for label in chosen])
        predictor(bands)
        began = time.process_time(), time.perf_counter()
        seconds = median_seconds(lambda p=predictor: p(bands), 5)
        busy = (time.process_time() - began[0]) / (time.perf_counter() - began[1])
        rows.append((" + ".join(chosen), seconds / (1 << 22) * 1e9, busy))
    show("Kernel alone", ("networks", "ns a pixel, wall", "cores busy"), rows)
