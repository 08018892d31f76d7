"""Fewer templates from a store: steps, sums that are written, and what is refused."""

import json
import logging

import numpy as np
import pytest
import skymill as sm
from skymill.chunking import store as stores
from skymill.chunking.errors import InputError, UnitError
from skymill.chunking.schema import MapInfo

NSIDE = 32


def put(where, values, unit):
    """Write maps in NESTED order into a store, made if it is not there."""
    stores.create(where, NSIDE, frame="galactic", tile_nside=1)
    stores.create_maps(where, [MapInfo(name, "a map", unit) for name in values])
    for name, each in values.items():
        for tile, part in enumerate(each.reshape(12, -1)):
            stores.write_tile(where, name, tile, part)


def maps():
    rng = np.random.default_rng(0)
    size = 12 * NSIDE**2
    a, b, c, d = (rng.gamma(3.0, 1.0, size).astype(np.float32) for _ in range(4))
    twin = (a + 0.02 * b).astype(np.float32)
    target = (0.4 * a + 0.4 * twin + 0.3 * c + 0.5 + 0.05 * rng.normal(size=size)).astype(np.float32)
    return {"cluster_1": a, "cluster_2": twin, "cluster_3": c, "cluster_4": d}, {"i857": target}


@pytest.fixture(scope="module")
def sky(tmp_path_factory):
    where = str(tmp_path_factory.mktemp("simplify") / "sky.zarr")
    templates, target = maps()
    put(where, templates, unit="1e20 cm^-2")
    put(where, target, unit="MJy/sr")
    return where


NAMES = ["cluster_1", "cluster_2", "cluster_3", "cluster_4"]


def test_drops_merges_and_writes_the_sum(sky, tmp_path):
    out = str(tmp_path / "out.zarr")
    left = sm.simplify(sky, NAMES, "i857", out_store=out).run(progress=False)
    assert left.templates == ("cluster_1_2", "cluster_3")
    assert left.sums == {"cluster_1_2": ("cluster_1", "cluster_2")}
    assert [(step.action, step.templates) for step in left.steps] == [
        ("dropped", ("cluster_4",)),
        ("merged", ("cluster_1", "cluster_2")),
    ]
    held = sm.open(out)["cluster_1_2"]
    wanted = sm.open(sky)["cluster_1"].values.astype(float) + sm.open(sky)["cluster_2"].values
    np.testing.assert_allclose(held.values, wanted, rtol=1e-6)
    assert held.attrs["units"] == "1e20 cm^-2"
    assert held.attrs["skymill"]["provenance"]["steps"][1]["action"] == "merged"
    told = json.loads(left.to_json())
    assert told["sums"] == {"cluster_1_2": ["cluster_1", "cluster_2"]}
    assert "cluster_4 dropped" in str(left)
    again = sm.simplify(sky, NAMES, "i857", out_store=out).run(progress=False)
    assert again == left


def test_the_jackknife_decides_unless_it_is_off(sky):
    with_parts = sm.simplify(sky, NAMES, "i857", keep=NAMES[:3], contribution=0.0, jackknife=4).run(progress=False)
    formal = sm.simplify(sky, NAMES, "i857", keep=NAMES[:3], contribution=0.0, jackknife=None).run(progress=False)
    assert with_parts.steps[0].value != formal.steps[0].value
    fit = sm.fit(sky, NAMES, "i857", jackknife=4).run(progress=False)
    own = fit.sel(target="i857", template="cluster_4")
    np.testing.assert_allclose(
        with_parts.steps[0].value, abs(float(own["coefficient"])) / float(own["jackknife_error"]), rtol=1e-8
    )
    np.testing.assert_allclose(formal.steps[0].value, abs(float(own["coefficient"])) / float(own["error"]), rtol=1e-8)


@pytest.mark.parametrize(
    ("options", "left"),
    [
        ({"keep": ["cluster_4"]}, ("cluster_1_2", "cluster_3", "cluster_4")),
        ({"significance": 0.0, "contribution": 0.0}, ("cluster_1_2", "cluster_3", "cluster_4")),
        ({"correlation": 1.0}, ("cluster_1", "cluster_2", "cluster_3")),
        ({"contribution": 0.9}, ("cluster_2",)),
        ({"drop": ["cluster_3"]}, ("cluster_1_2",)),
        ({"merge": [["cluster_2", "cluster_3"]], "correlation": 1.0}, ("cluster_1", "cluster_2_3")),
        ({"region": "b > 0", "offset": False, "drop": ["cluster_1", "cluster_2"]}, ("cluster_3", "cluster_4")),
    ],
)
def test_options(sky, tmp_path, options, left):
    found = sm.simplify(sky, NAMES, "i857", out_store=tmp_path / "out.zarr", **options).run(progress=False)
    assert found.templates == left


def test_noise_and_mask_change_the_numbers(sky):
    names = ["cluster_3", "cluster_4"]
    one = sm.simplify(sky, names, "i857", keep=["cluster_3"]).run(progress=False).steps[0]
    other = sm.simplify(sky, names, "i857", keep=["cluster_3"], noise=0.05, jackknife=None).run(progress=False)
    assert other.steps == () or other.steps[0].chi2_before != one.chi2_before
    masked = sm.simplify(sky, names, "i857", keep=["cluster_3"], mask="cluster_1").run(progress=False).steps[0]
    assert masked.chi2_before == pytest.approx(one.chi2_before)  # a weight above 0 is a used pixel
    half = sm.simplify(sky, names, "i857", keep=["cluster_3"], region="b < 0").run(progress=False).steps
    assert not half or half[0].chi2_before != one.chi2_before


def test_a_target_without_residuals_and_one_that_is_constant(tmp_path):
    where, (templates, _) = str(tmp_path / "sky.zarr"), maps()
    put(where, {name: templates[name] for name in ("cluster_1", "cluster_3")}, unit="1e20 cm^-2")
    put(where, {"exact": 0.5 * templates["cluster_1"], "flat": np.full(12 * NSIDE**2, 2.0, np.float32)}, unit="MJy/sr")
    names = ["cluster_1", "cluster_3"]
    assert sm.simplify(where, names, "exact").run(progress=False).templates == ("cluster_1",)
    assert len(sm.simplify(where, names, "flat").run(progress=False).templates) == 1


def test_too_few_super_pixels_for_a_jackknife_are_told(sky, caplog):
    options = {"keep": NAMES[:3], "contribution": 0.0, "significance": 3.0, "region": "b > 75"}
    with caplog.at_level(logging.WARNING, "skymill"):
        few = sm.simplify(sky, NAMES, "i857", jackknife=1, **options).run(progress=False)
    assert "too few for a jackknife; formal errors decide" in caplog.text
    formal = sm.simplify(sky, NAMES, "i857", jackknife=None, **options).run(progress=False)
    assert few.steps[0] == formal.steps[0]


def test_bad_input(sky, tmp_path):
    with pytest.raises(InputError, match="list of lists"):
        sm.simplify(sky, NAMES, "i857", merge=["cluster_1", "cluster_2"])
    with pytest.raises(InputError, match="`keep` names"):
        sm.simplify(sky, NAMES, "i857", keep=["cluster_9"]).run(progress=False)
    with pytest.raises(InputError, match="expected"):
        sm.simplify(sky, NAMES, "i857", correlation=1.5)
    other = str(tmp_path / "other.zarr")
    templates, target = maps()
    put(other, {"a": templates["cluster_1"]}, unit="K")
    put(other, {"b": templates["cluster_3"]}, unit="mK")
    put(other, target, unit="MJy/sr")
    with pytest.raises(UnitError, match="K and mK"):
        sm.simplify(other, ["a", "b"], "i857", merge=[["a", "b"]]).run(progress=False)
