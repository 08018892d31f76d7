"""What a template fit refuses, and what it says then."""

from __future__ import annotations

import numpy as np
import pytest
import skymill as sm
from skymill.chunking.errors import InputError, MissingMapError, UnitError
from template_skies import TARGETS, TEMPLATES, run, sky_maps, write_store


@pytest.fixture(scope="module")
def sky(tmp_path_factory):
    maps = sky_maps()
    return write_store(tmp_path_factory.mktemp("fit") / "sky.zarr", maps), maps


def altered(tmp_path, **changes):
    maps = sky_maps()
    for name, change in changes.items():
        maps[name] = change(maps[name]).astype(np.float32)
    return write_store(tmp_path / "sky.zarr", maps)


def hole(values, number):
    values = values.copy()
    values[100:103] = number
    return values


@pytest.mark.parametrize(
    ("changes", "options", "words"),
    [
        ({"nh2": lambda v: 0 * v}, {}, "template 'nh2' is zero in all pixels"),
        ({"nh2": lambda v: 0 * v + 2}, {}, "template 'nh2' is constant"),
        ({"nh2": lambda v: np.nan * v}, {}, "map 'nh2' has no value"),
        ({"nh2": lambda v: np.where(np.arange(v.size) < 5, v, np.nan)}, {"mask": "mask"}, "pixels are left for 4"),
        ({}, {"region": "b > 95"}, "mask and region leave no pixel"),
        ({}, {"region": {"a": "b > 0", "b": "b > 95"}}, "leave no pixel of region 'b'"),
        ({"nh2": lambda v: 0 * v}, {"region": {"a": "b > 0"}}, "region 'a': template 'nh2' is zero"),
        ({"nh2": lambda v: np.where(np.arange(v.size) % 2, v, np.nan),
          "nhii": lambda v: np.where(np.arange(v.size) % 2, np.nan, v)}, {}, "there is none where all maps"),
        ({"sigma": lambda v: hole(v, 0)}, {"noise": "sigma"}, r"noise map 'sigma' is zero, negative"),
        ({"sigma": lambda v: hole(v, -0.1)}, {"noise": "sigma"}, r"in 3 pixels .* region=\"0 < sigma < 1e38\""),
        ({"sigma": lambda v: hole(v, np.inf)}, {"noise": "sigma"}, r"in 3 pixels .*infinite"),
        ({"sigma": lambda v: hole(v, np.inf)}, {"noise": "sigma", "noise_spectrum": [0.0] * 5}, "holds inf .3 such"),
        ({"sigma": lambda v: hole(v, np.nan)}, {"noise": "sigma", "noise_spectrum": [0.0] * 5}, "holds nan .3 such"),
        ({"sigma": lambda v: hole(v, np.nan)}, {"noise": "sigma"}, "in 3 pixels"),
        ({"sigma": lambda v: hole(v, np.nan)}, {"noise": "sigma", "region": {"a": None, "b": "b > -95", "c": None}},
         "in 3 pixels"),
        ({"variance": lambda v: hole(v, -1)}, {"noise": {"i857": "variance", "i353": None}}, "noise map 'variance'"),
    ],
)  # fmt: skip
def test_what_cannot_be_fitted_is_told(tmp_path, changes, options, words):
    where = altered(tmp_path, **changes)
    with pytest.raises(InputError, match=words):
        run(where, **options)


@pytest.mark.parametrize("number", [0, np.inf, np.nan])
def test_pixels_with_bad_noise_can_be_left_out(tmp_path, number):
    where = altered(tmp_path, sigma=lambda v: hole(v, number))
    found = run(where, noise="sigma", region="0 < sigma < 1e38")
    assert np.isfinite(found["coefficient"]).all()
    holes = altered(tmp_path / "b", sigma=lambda v: hole(v, 0), nhi=lambda v: hole(v, np.nan))
    assert np.isfinite(run(holes, noise="sigma")["coefficient"]).all()  # nobody uses these pixels


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"templates": ["nhi", "nh"]}, MissingMapError, "'nh'"),
        ({"templates": ["nhi", "nhi"]}, InputError, "more than once"),
        ({"templates": []}, None, ""),
        ({"templates": [], "offset": False}, InputError, "at least one"),
        ({"target": []}, InputError, "at least one"),
        ({"templates": ["nhi", "i857"]}, InputError, "as template and as target"),
        ({"noise": "nhi"}, UnitError, "noise map 'nhi' is in '1e20 cm\\^-2'"),
        ({"noise": -1.0}, InputError, "number above 0"),
        ({"noise": float("nan")}, InputError, "noise"),
        ({"noise": {"i857": 1.0}}, InputError, "`noise` has none of 'i353'"),
        ({"noise": {"i857": 1.0, "i35": 1.0}}, InputError, "did you mean 'i353'"),
        ({"noise": 1.0, "target": ["i857", "ebv"]}, UnitError, "give a mapping"),
        ({"mask": "musk"}, MissingMapError, "musk"),
        ({"region": {}}, InputError, "empty mapping"),
        ({"region": "b >"}, InputError, "b >"),
        ({"ridge": -1.0}, InputError, "`ridge`"),
        ({"jackknife": 3}, InputError, "power of two"),
        ({"superpixels": 3}, InputError, "power of two"),
        ({"superpixels": 32}, InputError, "give at most that"),
        ({"maps": ["modell"]}, InputError, "did you mean 'model'"),
        ({"out_store": "x.zarr"}, InputError, "without `maps`"),
        ({"lmax": 3}, InputError, "without `noise_spectrum`"),
        ({"noise_spectrum": [1.0] * 5}, InputError, "white part of the noise"),
        ({"noise_spectrum": [1.0] * 5, "noise": 0.1, "superpixels": 2}, InputError, "superpixels"),
    ],
)
def test_bad_arguments(sky, options, error, words):
    given = {"templates": TEMPLATES, "target": TARGETS, **options}
    if error is None:
        sm.fit(sky[0], **given)
        return
    with pytest.raises(error, match=words):
        sm.fit(sky[0], **given)


def test_a_ridge_between_super_pixels_wants_a_solution_of_all(tmp_path):
    where = altered(tmp_path, nh2=lambda v: 0 * v)
    with pytest.raises(InputError, match=r"region 'a': template 'nh2' is zero .* one"):
        run(where, superpixels=2, ridge=0.1, region={"a": "b > 0"})
    maps = sky_maps()
    maps["nhii"] = 2 * maps["nhi"]
    with pytest.raises(InputError, match=r"are collinear .* Leave one of them out. With `superpixels`"):
        run(write_store(tmp_path / "b.zarr", maps), superpixels=2, ridge=0.1)


def test_a_template_called_offset_is_refused(tmp_path):
    maps = {**sky_maps(), "offset": sky_maps()["nh2"]}
    where = write_store(tmp_path / "sky.zarr", maps)
    with pytest.raises(InputError, match="another name"):
        sm.fit(where, ["offset"], "i857")
    assert run(where, ["offset"], "i857", offset=False)["template"].values.tolist() == ["offset"]
