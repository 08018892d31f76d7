"""A step of a recipe that did nothing is caught, and the map that it left is not kept."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from plancklike import (
    NPIX,
    make_planck_like_sky,
    read,
    recipe,
    steps_of,
    write,
)
from skymill.chunking import store as stores
from skymill.chunking.errors import InputError, RunError
from skymill.engine.ledger import map_digest
from skymill.engine.prepare import (
    DropNegative,
    Scale,
    SubtractMap,
    SubtractMonopole,
    prepare,
)


@pytest.fixture(scope="module")
def sky_made_once(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The sky of `plancklike`."""
    return make_planck_like_sky(str(tmp_path_factory.mktemp("made") / "sky.zarr"))


@pytest.fixture
def sky(sky_made_once: str, tmp_path: Path) -> str:
    """A copy of that sky to write into."""
    return str(shutil.copytree(sky_made_once, tmp_path / "sky.zarr"))


def partly(where: str) -> str:
    """Write a template that has a value on one pixel only."""
    values = np.full(NPIX, np.nan)
    values[700] = 1e-4
    write(where, "partly", values, "K_CMB")
    return "partly"


@pytest.mark.parametrize(
    ("step", "told"),
    [
        (SubtractMap("zero", band="850um", label="CMB"), r"step 1 \(subtract_map CMB\): changed nothing .* is 0"),
        (SubtractMap("nothing", band="850um"), "lost their value; nothing has none"),
        (DropNegative(("co21",), zero=False), "changed nothing: no pixel was dropped"),
        (Scale(-1.0), None),
    ],
    ids=["zero template", "template without values", "nothing dropped", "control"],
)
def test_a_step_that_changed_nothing_is_an_error(sky: str, step: Any, told: str | None) -> None:
    write(sky, "positive", np.ones(NPIX))
    chain = recipe(step, Scale(2.0), input="positive")
    if told is None:
        prepare(sky, chain).run()
        return
    with pytest.raises(RunError, match=told) as caught:
        prepare(sky, chain).run()
    assert "i850um" in str(caught.value)
    assert "removed" in str(caught.value)
    # Nothing is left that could be taken for a prepared map, and the same run fails again.
    assert "i850um" not in stores.infos(sky)
    with pytest.raises(InputError):
        map_digest(sky, "i850um")
    with pytest.raises(RunError, match=told):
        prepare(sky, chain).run()


def test_the_good_recipe_of_a_failed_run_is_kept(sky: str) -> None:
    good = recipe(Scale(2.0), output="good")
    bad = recipe(SubtractMap("zero", band="850um"), output="bad")
    with pytest.raises(RunError, match="'bad', step 1"):
        prepare(sky, [bad, good]).run()
    assert "bad" not in stores.infos(sky)
    assert "steps" in stores.info(sky, "good").provenance


def test_a_map_without_values_is_an_error(sky: str) -> None:
    write(sky, "empty", np.full(NPIX, np.nan))
    with pytest.raises(RunError, match="no value anywhere"):
        prepare(sky, recipe(SubtractMonopole(0.1, "MJy/sr"), input="empty")).run()


def test_all_pixels_dropped_is_an_error(sky: str) -> None:
    write(sky, "negative", np.full(NPIX, -1.0))
    with pytest.raises(RunError, match=f"all {NPIX} pixels were dropped"):
        prepare(sky, recipe(DropNegative(), input="negative")).run()


def test_a_monopole_must_change_every_pixel(sky: str) -> None:
    values = np.ones(NPIX)
    values[5] = 1e25  # beside it the monopole is lost in rounding
    write(sky, "huge", values)
    with pytest.raises(RunError, match=rf"changed only {NPIX - 1} of {NPIX} pixels"):
        prepare(sky, recipe(SubtractMonopole(0.13, "MJy/sr"), input="huge")).run()


def test_nothing_to_drop_can_be_in_order(sky: str) -> None:
    prepare(sky, recipe(DropNegative(may_be_idle=True), input="co21")).run()
    np.testing.assert_array_equal(read(sky, "i850um"), read(sky, "co21"))


def test_pixels_without_template_are_counted_as_lost(sky: str) -> None:
    prepare(sky, recipe(SubtractMap(partly(sky), band="850um"))).run()
    step = steps_of(sky, "i850um")[0]
    assert (step["changed"], step["lost"]) == (1, NPIX - 66)
    assert np.isfinite(read(sky, "i850um")).sum() == 1


def test_values_beyond_float32_are_refused(sky: str) -> None:
    with pytest.raises((InputError, RunError), match="more than float32 holds"):
        prepare(sky, recipe(Scale(1e39))).run()
