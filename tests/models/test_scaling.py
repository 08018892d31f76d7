"""The quantile sketch against exact quantiles, within the bound that it states."""

from __future__ import annotations

import json
import math
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.preprocessing import RobustScaler
from skymill.chunking.errors import FormatError, InputError
from skymill.models.scaling import QuantileSketch, Scaling

SAMPLES = {
    "lognormal": np.random.default_rng(0).lognormal(1.0, 1.5, 50_001),
    "few": np.array([3.0, 1e-3, 77.0, 5.0]),
    "one": np.array([2.5]),
    "two far apart": np.array([1e-37, 3e38]),
    "two heaps": np.concatenate([np.full(500, 1.0), np.full(500, 1e6)]),
    "constant": np.full(100, 42.0),
    "nearly constant": 1.0 + 1e-4 * np.random.default_rng(1).random(1000),
}


@pytest.mark.parametrize("name", SAMPLES)
@pytest.mark.parametrize("bits", [4, 8, 12, 16])
def test_every_quantile_is_within_the_stated_bound(name: str, bits: int) -> None:
    values = SAMPLES[name].astype("f4")
    sketch = QuantileSketch(bits).add(values)
    exact = np.log(values.astype("f8"))
    for fraction in (0.0, 0.001, 0.25, 0.3333, 0.5, 0.75, 0.999, 1.0):
        error = abs(sketch.quantile(fraction) - np.quantile(exact, fraction))
        assert error <= sketch.error_bound * (1 + 1e-9) + 1e-12


def test_the_bound_is_what_the_documentation_says_and_is_nearly_reached() -> None:
    assert QuantileSketch().error_bound == pytest.approx(1.2e-4, rel=0.02)
    # The first number of a bin is half a bin from its centre.
    worst = abs(QuantileSketch(8).add([1.0]).quantile(0.5) - 0.0)
    assert worst == pytest.approx(QuantileSketch(8).error_bound)


def test_more_bits_are_nearer_and_cost_more() -> None:
    coarse, fine = (QuantileSketch(bits).add(SAMPLES["lognormal"]) for bits in (5, 15))
    exact = np.median(np.log(SAMPLES["lognormal"]))
    assert abs(fine.quantile(0.5) - exact) < abs(coarse.quantile(0.5) - exact)
    assert fine.nbytes > 100 * coarse.nbytes
    assert QuantileSketch(12).add([1.0, 1.999]).nbytes <= 33_000


@settings(max_examples=50, deadline=None)
@given(
    values=st.lists(st.floats(-86.0, 88.0).map(math.exp), min_size=1, max_size=60),
    cuts=st.lists(st.integers(0, 60), max_size=5),
    order=st.randoms(use_true_random=False),
)
def test_any_cutting_and_any_order_give_the_same_sketch(values: list[float], cuts: list[int], order: Any) -> None:
    whole = QuantileSketch().add(values)
    pieces = np.split(np.array(values, "f4"), sorted(c for c in cuts if c <= len(values)))
    order.shuffle(pieces)
    merged = QuantileSketch()
    for piece in pieces:
        merged.merge(pickle.loads(pickle.dumps(QuantileSketch().add(piece))))
    assert merged.count == whole.count == len(values)
    assert (merged.minimum, merged.maximum) == (whole.minimum, whole.maximum)
    for fraction in (0.0, 0.1, 0.5, 0.9, 1.0):
        assert merged.quantile(fraction) == whole.quantile(fraction)
        exact = np.quantile(np.log(np.array(values, "f4").astype("f8")), fraction)
        assert abs(whole.quantile(fraction) - exact) <= whole.error_bound * (1 + 1e-9) + 1e-12


def test_minimum_and_maximum_are_exact() -> None:
    sketch = QuantileSketch().add(SAMPLES["lognormal"])
    assert sketch.minimum == np.float32(SAMPLES["lognormal"].min())
    assert sketch.maximum == np.float32(SAMPLES["lognormal"].max())


@pytest.mark.parametrize("wrong", [0.0, -1.0, np.nan, np.inf, 1e-40, 1e39])
def test_values_without_a_logarithm_are_refused(wrong: float) -> None:
    with pytest.raises(InputError, match="positive finite"), np.errstate(over="ignore"):
        QuantileSketch().add([1.0, wrong, 2.0])


def test_refusals() -> None:
    for bits in (3, 17):
        with pytest.raises(InputError, match="from 4 to 16"):
            QuantileSketch(bits)
    with pytest.raises(InputError, match="no values"):
        QuantileSketch().quantile(0.5)
    with pytest.raises(InputError, match="from 0 to 1"):
        QuantileSketch().add([1.0]).quantile(1.5)
    with pytest.raises(InputError, match="cannot be merged"):
        QuantileSketch(12).merge(QuantileSketch(11))
    assert QuantileSketch().add([]).merge(QuantileSketch()).count == 0


def _pixels() -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(4)
    inputs = random.lognormal([[3.0], [2.0], [1.0], [0.0]], [[1.5], [1.2], [1.0], [0.8]], (4, 20_000)).astype("f4")
    return inputs, (inputs[3] ** 0.9 * 0.3).astype("f4")


@pytest.mark.parametrize("bits", [8, 12])
def test_the_scaling_is_that_of_scikit_learn(bits: int) -> None:
    inputs, output = _pixels()
    scaling = Scaling.fit(inputs, output, bits=bits)
    expected = RobustScaler().fit(np.log(inputs.T.astype("f8")))
    assert np.abs(np.array(scaling.centre) - expected.center_).max() <= scaling.error_bound
    assert np.abs(np.array(scaling.scale) - expected.scale_).max() <= 2 * scaling.error_bound
    target = RobustScaler().fit(np.log(output.astype("f8"))[:, None])
    assert abs(scaling.output_centre - target.center_[0]) <= scaling.error_bound
    assert abs(scaling.output_scale - target.scale_[0]) <= 2 * scaling.error_bound
    assert scaling.low == tuple(inputs.min(axis=1).astype(float))
    assert scaling.high == tuple(inputs.max(axis=1).astype(float))
    scaled = scaling.inputs_to_network(inputs)
    assert scaled.dtype == np.float32
    # Off by the error of the centre, and by that of the scale, which grows with the distance.
    allowed = 3 * scaling.error_bound / expected.scale_ * (1 + np.abs(scaled).max(axis=1)) + 1e-5
    assert (np.abs(scaled - expected.transform(np.log(inputs.T.astype("f8"))).T).max(axis=1) <= allowed).all()
    back = np.exp(scaling.output_to_network(output) * scaling.output_scale + scaling.output_centre)
    np.testing.assert_allclose(back, output, rtol=1e-5)


def test_a_band_that_does_not_vary_is_not_divided_by_zero() -> None:
    scaling = Scaling.fit(np.full((1, 10), 3.0, "f4"), np.full(10, 2.0, "f4"))
    assert scaling.scale == (1.0,)
    assert scaling.output_scale == 1.0


GOOD: dict[str, Any] = {
    "centre": [1.0, 2.0],
    "scale": [1.0, 1.0],
    "low": [0.1, 0.1],
    "high": [9.0, 9.0],
    "output_centre": 0.0,
    "output_scale": 1.0,
}


def test_json_gives_the_same_scaling_back() -> None:
    inputs, output = _pixels()
    scaling = Scaling.fit(inputs, output)
    assert Scaling.from_dict(json.loads(json.dumps(scaling.to_dict()))) == scaling
    assert Scaling.from_dict(GOOD).error_bound == 0.0


@pytest.mark.parametrize(
    "change",
    [
        {"centre": [1.0]},
        {"centre": [1.0, math.nan]},
        {"scale": [1.0, 0.0]},
        {"scale": [1.0, -1.0]},
        {"low": [0.1, 0.0]},
        {"low": [0.1, 10.0]},
        {"output_scale": 0.0},
        {"output_centre": math.inf},
        {"output_centre": "0"},
        {"centre": "ab"},
        {"mean": [1.0, 1.0]},
    ],
)
def test_a_damaged_scaling_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(FormatError, match="scaling of the model"):
        Scaling.from_dict(GOOD | change)
    with pytest.raises(FormatError, match="scaling of the model"):
        Scaling.from_dict({k: v for k, v in GOOD.items() if k != "low"})
    with pytest.raises(FormatError, match="scaling of the model"):
        Scaling.from_dict([1])  # type: ignore[arg-type]
