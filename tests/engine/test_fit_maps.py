"""Maps of template fits, and the folders that they leave."""

from __future__ import annotations

import hashlib
import json
import shutil

import numpy as np
import pytest
import skymill as sm
from skies import content
from skymill.chunking import store as stores
from skymill.chunking.errors import FormatError, IdentityError, InputError
from skymill.engine import fit as fit_module
from skymill.engine.figures_fit import coefficients_figure
from skymill.engine.fit_files import read_fit
from skymill.engine.fit_request import request_of
from skymill.engine.fit_residuals import residual_histograms
from skymill.engine.ledger import column
from skymill.engine.plan import Run
from skymill.engine.worker import Worker
from template_skies import NSIDE, TARGETS, TEMPLATES, finite, run, sky_maps, write_store


@pytest.fixture(scope="module")
def sky(tmp_path_factory):
    maps = sky_maps()
    return write_store(tmp_path_factory.mktemp("fit") / "sky.zarr", maps), maps


def read(where, name):
    return sm.open(where)[name].values


def test_maps_hold_model_residual_and_fraction(sky, tmp_path):
    where, maps = sky
    out = tmp_path / "out.zarr"
    found = run(where, mask="mask", maps=True, out_store=out, jackknife=None)
    columns = np.vstack([*(maps[name] for name in TEMPLATES), np.ones(12 * NSIDE**2)]).astype(float)
    for target in TARGETS:
        theta = found["coefficient"].sel(target=target).values
        model = theta @ columns
        np.testing.assert_allclose(read(out, f"fit_model_{target}"), model, rtol=1e-6)
        left = maps[target] - model
        np.testing.assert_allclose(read(out, f"fit_residual_{target}"), left, rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(
            read(out, f"fit_fraction_{target}"), left / (model - theta[-1]), rtol=1e-5, atol=1e-6
        )
    assert np.isfinite(model[maps["mask"] == 0]).any()  # outside the mask too
    info = stores.info(out, "fit_fraction_i857")
    assert (info.unit, stores.info(out, "fit_residual_i857").unit) == ("1", "MJy/sr")
    known = info.provenance["coefficients"]["i857"]
    assert known == dict(zip(found["template"].values, found["coefficient"].values[0], strict=True))
    assert info.provenance["verb"] == "fit"
    assert "fit_model_i857" not in stores.infos(where)


def test_chosen_maps_in_the_store_itself(tmp_path):
    where = write_store(tmp_path / "sky.zarr", sky_maps())
    run(where, target="i857", maps=["residual"])
    assert [name for name in stores.infos(where) if name.startswith("fit_")] == ["fit_residual_i857"]


def test_each_region_gives_its_coefficients(sky, tmp_path):
    where, maps = sky
    out = tmp_path / "out.zarr"
    regions = {"north": "b > 30", "all north": "b > 0", "south": "b < -30"}
    found = run(where, target="i857", region=regions, maps=["model"], out_store=out, mask="mask")
    grid = stores.tiling_of(where)
    lat = grid.lonlat(np.arange(grid.npix))[1]
    columns = np.vstack([*(maps[name] for name in TEMPLATES), np.ones(12 * NSIDE**2)]).astype(float)
    rows = found["coefficient"].sel(target="i857").values @ columns
    expected = np.where(lat > 30, rows[0], np.where(lat > 0, rows[1], np.where(lat < -30, rows[2], np.nan)))
    np.testing.assert_allclose(read(out, "fit_model_i857"), expected, rtol=1e-6)


def test_each_super_pixel_gives_its_coefficients(sky, tmp_path):
    where, maps = sky
    out = tmp_path / "out.zarr"
    found = run(where, target="i857", region="b > 0", superpixels=2, maps=["model"], out_store=out)
    columns = np.vstack([*(maps[name] for name in TEMPLATES), np.ones(12 * NSIDE**2)]).astype(float)
    parent = np.arange(12 * NSIDE**2) // 64
    table = np.full((48, 4), np.nan)
    table[found["superpixel"].values] = found["coefficient"].sel(target="i857").values
    np.testing.assert_allclose(read(out, "fit_model_i857"), (table[parent].T * columns).sum(0), rtol=1e-6)
    assert not list((out / "ledger" / "fit").glob("*"))  # what tasks were handed is gone


def test_maps_resume_and_are_the_same_bytes(tmp_path, monkeypatch):
    maps = sky_maps()
    where = write_store(tmp_path / "sky.zarr", maps)
    whole = tmp_path / "whole.zarr"
    run(where, maps=True, out_store=whole)
    names = [name for name in stores.infos(whole) if name.startswith("fit_")]
    assert len(names) == 6
    from skymill.engine.fit_maps import FitMapsKernel

    right = FitMapsKernel.__call__

    def failing(self, tile, inputs):
        if tile >= 7:
            raise OSError(28, "No space left on device")
        return right(self, tile, inputs)

    monkeypatch.setattr(FitMapsKernel, "__call__", failing)
    part = tmp_path / "part.zarr"
    with pytest.raises(sm.errors.DiskFullError):
        run(where, maps=True, out_store=part, threads=1)
    done = int(np.count_nonzero(column(str(part), names[0])))
    assert 0 < done < 12
    plan = sm.fit(where, TEMPLATES, TARGETS, maps=True, out_store=part)
    assert f"{12 - done} tiles to do" in str(plan)
    monkeypatch.setattr(FitMapsKernel, "__call__", right)
    plan.run(progress=False)
    assert content(part, *names) == content(whole, *names)


def test_maps_of_another_fit_are_not_overwritten(tmp_path):
    where = write_store(tmp_path / "sky.zarr", sky_maps())
    run(where, maps=["model"], target="i857")
    with pytest.raises(IdentityError, match="fit_model_i857"):
        sm.fit(where, TEMPLATES[:2], "i857", maps=["model"])
    first = read(where, "fit_model_i857")
    run(where, TEMPLATES[:1], maps=["model"], target="i857", overwrite=True)
    assert not np.array_equal(read(where, "fit_model_i857"), first, equal_nan=True)


def test_maps_are_the_same_for_any_jackknife_and_any_noise_has_a_name_of_few_bytes(tmp_path):
    where = write_store(tmp_path / "sky.zarr", sky_maps())
    options = {"target": "i857", "maps": ["model"], "noise": 0.1}
    run(where, jackknife=2, **options)
    assert ": 0 tiles to do" in str(sm.fit(where, TEMPLATES, "i857", maps=["model"], noise=0.1, jackknife=None))
    spectrum = np.r_[0.0, 0.0, np.full(30, 1e-2)]
    found = run(where, noise_spectrum=spectrum, overwrite=True, **options)
    known = json.loads(found.attrs["provenance"])["parameters"]["noise_spectrum"]
    assert known == {"lmax": 31, "digest": {"i857": hashlib.blake2b(spectrum.tobytes(), digest_size=16).hexdigest()}}
    assert ": 0 tiles to do" in str(sm.fit(where, TEMPLATES, noise_spectrum=spectrum, **options))
    spectrum[-1] *= 1 + 1e-15
    with pytest.raises(IdentityError, match="fit_model_i857"):
        sm.fit(where, TEMPLATES, noise_spectrum=spectrum, **options)


def test_a_plan_writes_nothing_and_says_what_it_will_do(sky, tmp_path):
    where, _ = sky
    plan = sm.fit(where, TEMPLATES, TARGETS, maps=True, out_dir=tmp_path / "out", out_store=tmp_path / "out.zarr")
    text = str(plan)
    assert "3 templates to 2 targets in 1 regions" in text
    assert "12 to do" in text
    assert "model, residual, fraction" in text
    assert list(tmp_path.iterdir()) == []


def test_the_folder_holds_the_result_and_is_read_back(sky, tmp_path, monkeypatch):
    where, _ = sky
    options = {"noise": "sigma", "mask": "mask", "region": {"ngc": "ngc", "sgc": "sgc"}, "jackknife": 4}
    found = run(where, out_dir=tmp_path / "out", **options)
    for path in (tmp_path / "out", tmp_path / "out" / "fit.zarr"):
        assert read_fit(path).identical(found)
    known = json.loads((tmp_path / "out" / "fit.json").read_text())
    assert known["regions"][1]["region"] == "sgc"
    row = known["regions"][1]["targets"][0]
    assert row["coefficient"]["nhi"] == float(found["coefficient"].sel(region="sgc", target="i857", template="nhi"))
    assert row["unit"]["offset"] == "MJy/sr"
    page = (tmp_path / "out" / "index.html").read_text()
    for name in ("coefficients.png", "correlation_ngc.png", "correlation_sgc.png"):
        assert (tmp_path / "out" / name).stat().st_size > 5000
        assert name in page
    assert "jackknife error" in page
    plan = sm.fit(where, TEMPLATES, TARGETS, out_dir=tmp_path / "out", **options)
    assert (len(plan.todo), plan.read_bytes) == (0, 0)
    assert plan.done > 0
    assert "is finished, and is read back" in str(plan)
    monkeypatch.setattr(fit_module, "_fitted", None)  # nothing is computed again
    assert run(where, out_dir=tmp_path / "out", **options).identical(found)
    with pytest.raises(IdentityError, match="jackknife"):
        sm.fit(where, TEMPLATES, TARGETS, out_dir=tmp_path / "out", **{**options, "jackknife": 2})
    monkeypatch.undo()
    other = run(where, out_dir=tmp_path / "out", overwrite=True, **{**options, "jackknife": 2})
    assert read_fit(tmp_path / "out").identical(other)
    with pytest.raises(sm.errors.FormatError, match="cannot be read as a fit"):
        read_fit(tmp_path)


def test_a_folder_that_lost_numbers_is_not_taken_for_finished(sky, tmp_path):
    found = run(sky[0], out_dir=tmp_path / "out")
    shutil.rmtree(tmp_path / "out" / "fit.zarr" / "coefficient" / "c")
    for again in (lambda: read_fit(tmp_path / "out"), lambda: run(sky[0], out_dir=tmp_path / "out")):
        with pytest.raises(FormatError, match="does not hold the numbers"):
            again()
    assert run(sky[0], out_dir=tmp_path / "out", overwrite=True).identical(found)
    assert read_fit(tmp_path / "out").identical(found)


@pytest.mark.parametrize(
    ("verb", "maps", "reads"),
    [
        (sm.fit, (TEMPLATES, TARGETS), "skymill.engine.fit_pass.reduce_tiles"),
        (sm.correlate, (TEMPLATES,), "skymill.engine.correlate.reduce_tiles"),
    ],
)
def test_a_folder_that_cannot_be_made_is_told_before_the_work(sky, tmp_path, monkeypatch, verb, maps, reads):
    def begun(*_, **__):
        raise AssertionError("it began to read")

    monkeypatch.setattr(reads, begun)
    (tmp_path / "out").symlink_to(tmp_path / "nowhere")
    plan = verb(sky[0], *maps, out_dir=tmp_path / "out")
    with pytest.raises(InputError, match=r"`out_dir` .*out cannot be made \(File exists\)"):
        plan.run(progress=False)


def test_a_finished_folder_is_left_alone_until_other_maps_are_asked_for(sky, tmp_path):
    options = {"out_dir": tmp_path / "out", "out_store": tmp_path / "maps.zarr"}
    page, data = tmp_path / "out" / "index.html", tmp_path / "out" / "fit.zarr" / "zarr.json"

    def stamps():
        return [path.stat().st_mtime_ns for path in (page, data, tmp_path / "out" / "residual_i857.png")]

    found = run(sky[0], maps=["residual"], **options)
    before = stamps()
    assert run(sky[0], maps=["residual"], **options).identical(found)
    assert run(sky[0], out_dir=tmp_path / "out").identical(found)
    assert stamps() == before
    more = run(sky[0], maps=["model", "residual"], **options)
    assert "fit_model_i857" in page.read_text()
    assert read_fit(tmp_path / "out").identical(more)
    assert more.drop_attrs().identical(found.drop_attrs())
    again = stamps()
    run(sky[0], maps=["model", "residual"], **{**options, "out_store": tmp_path / "other.zarr"})
    assert stamps() != again


def test_pages_of_super_pixels_and_statements(tmp_path):
    maps = sky_maps()
    maps["i857"] = (maps["i857"] * np.repeat(np.random.default_rng(3).normal(1, 0.2, 48), 64)).astype(np.float32)
    where = write_store(tmp_path / "sky.zarr", maps)
    run(where, jackknife=2, out_dir=tmp_path / "a")
    assert "formal errors of i857 are too small" in (tmp_path / "a" / "index.html").read_text()
    found = run(where, superpixels=2, out_dir=tmp_path / "b", maps=["model"], out_store=tmp_path / "o.zarr")
    assert read_fit(tmp_path / "b").identical(found)
    page = (tmp_path / "b" / "index.html").read_text()
    assert "48 super-pixels of nside 2" in page
    assert "fit_model_i857" in page


def test_pages_tell_what_chi2_is_without_noise(sky, tmp_path):
    where, _ = sky
    sm.fit(where, TEMPLATES, TARGETS, noise={"i857": "sigma", "i353": None}, out_dir=tmp_path / "a").run(progress=False)
    page = (tmp_path / "a" / "index.html").read_text()
    assert "No noise was given for i353: its χ² is the sum of squared residuals, in (MJy/sr)²" in page
    sm.fit(where, TEMPLATES, TARGETS, noise="sigma", out_dir=tmp_path / "b").run(progress=False)
    assert "No noise was given" not in (tmp_path / "b" / "index.html").read_text()


def test_the_report_of_a_run_is_the_result(sky, tmp_path):
    where, _ = sky
    found = sm.fit(where, TEMPLATES, "i857").run(progress=False, report=tmp_path / "report.json")
    known = json.loads((tmp_path / "report.json").read_text())
    assert known["regions"][0]["targets"][0]["chi2"] == float(found["chi2"][0])


def test_the_page_shows_the_residuals_where_maps_of_them_are_written(sky, tmp_path):
    where, _ = sky
    options = {"mask": "mask", "region": {"ngc": "ngc", "sgc": "sgc"}, "out_store": tmp_path / "out.zarr"}
    run(where, maps=["residual"], out_dir=tmp_path / "a", **options)
    assert "residual_i857.png" in (tmp_path / "a" / "index.html").read_text()
    assert (tmp_path / "a" / "residual_i353.png").stat().st_size > 5000
    run(where, maps=["model"], out_dir=tmp_path / "b", **options)
    assert "residual_" not in (tmp_path / "b" / "index.html").read_text()


def test_histograms_of_residuals_count_the_used_pixels(sky, tmp_path):
    where, maps = sky
    found = run(where, mask="mask", maps=["residual"], out_store=tmp_path / "out.zarr")
    request = request_of(where, TEMPLATES, TARGETS, noise=None, mask="mask", region=None, offset=True, jackknife=None,
                         superpixels=None, ridge=0.0, maps=["residual"])  # fmt: skip
    counted = residual_histograms(request, str(tmp_path / "out.zarr"), Run(None, Worker.here(1), False))
    assert (finite(maps, [*TEMPLATES, "i857"]) & ~finite(maps)).any()  # i353 lacks pixels that i857 has
    values = read(tmp_path / "out.zarr", "fit_residual_i857")[finite(maps) & (maps["mask"] == 1)]
    histogram = counted["i857", "all used pixels"]
    assert histogram.total == values.size == int(found["pixels"][0])
    np.testing.assert_allclose(histogram.quantile(0.84), np.quantile(values, 0.84), rtol=0.02)


def test_units_of_coefficients_are_typeset_as_on_other_figures(sky):
    figure = coefficients_figure(run(sky[0]))
    labels = {axes.get_xlabel() for axes in figure.axes}
    assert "[MJy/sr / ($10^{20}$ cm$^{-2}$)]" in labels
    assert not any("1e20" in label for label in labels)
