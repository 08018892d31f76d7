"""The predictor against a float64 oracle, and the promise of the same bytes however it is called."""

import pickle
import threading
from itertools import pairwise

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skymill.chunking.errors import InputError, MissingMapError
from skymill.chunking.schema import FLAGS
from skymill.models import Model, Predictor, dust_mlp, kernel
from skymill.models.kernel import _compile
from skymill.models.mlp import Layer
from skymill.models.scaling import Scaling

MAPS = ("i160", "i250", "i350", "i500")
BLOCK = 512


def model(label="850um", seed=0, **changes):
    spec = dust_mlp(label).replace(**changes)
    random = np.random.default_rng(seed)
    layers = tuple(
        Layer(
            (random.normal(size=(b, a)) / np.sqrt(a)).astype("f4"),
            (0.1 * random.normal(size=b)).astype("f4"),
        )
        for a, b in pairwise(spec.sizes)
    )
    n = len(spec.inputs)
    scaling = Scaling((3.1, 2.5, 1.7, 0.9)[:n], (1.3, 1.2, 1.1, 1.0)[:n], (0.5,) * n, (400.0,) * n, 0.4, 1.4)
    return Model(spec, layers, scaling)


def sky(n, seed=1):
    random = np.random.default_rng(seed)
    return {name: np.exp(random.normal(2.0, 1.0, n)).astype("f4") for name in MAPS}


def oracle(trained, bands):
    """The same arithmetic in float64, written with NumPy alone."""
    scaling = trained.scaling
    x = np.stack([bands[name].astype("f8") for name in trained.spec.input_maps])
    x = (np.log(x) - np.array(scaling.centre)[:, None]) / np.array(scaling.scale)[:, None]
    for i, (weight, bias) in enumerate(trained.parameters):
        x = weight.astype("f8") @ x + bias.astype("f8")[:, None]
        if i < len(trained.parameters) - 1:
            x = np.tanh(x) if trained.spec.activation == "tanh" else np.maximum(x, 0)
    return np.exp(x[0] * scaling.output_scale + scaling.output_centre)


@pytest.mark.parametrize("label", ["850um", "1380um"])
def test_values_are_those_of_float64(label):
    trained, bands = model(label), sky(20_000)
    values, flags = Predictor([trained])(bands)[label]
    truth = oracle(trained, bands)
    assert values.dtype == np.float32
    # float32 rounds ln to 2.4e-7 of a few, and each layer adds about as much.
    assert np.abs(values / truth - 1).max() < 3e-6
    outside = np.any([(v < 0.5) | (v > 400) for v in bands.values()], axis=0)
    assert outside.any()
    assert np.array_equal(flags, np.where(outside, FLAGS["outside_training_range"], 0))


def test_values_are_those_of_flax():
    nnx = pytest.importorskip("flax.nnx")
    trained, bands = model(), sky(1000)
    dense = []
    for weight, bias in trained.parameters:
        layer = nnx.Linear(weight.shape[1], weight.shape[0], rngs=nnx.Rngs(0))
        layer.kernel[...], layer.bias[...] = weight.T, bias
        dense.append(layer)
    x = trained.scaling.inputs_to_network(np.stack([bands[name] for name in MAPS])).T
    for layer in dense[:-1]:
        x = nnx.tanh(layer(x))
    y = np.asarray(dense[-1](x))[:, 0]
    expected = np.exp(y * trained.scaling.output_scale + trained.scaling.output_centre)
    np.testing.assert_allclose(Predictor([trained])(bands)["850um"].values, expected, rtol=5e-6)


@pytest.mark.parametrize("activation", ["relu", "silu", "gelu", "sigmoid"])
def test_activation_changes_the_prediction(activation):
    bands = sky(100)
    other = Predictor([model(activation=activation)], block=BLOCK)(bands)["850um"].values
    assert not np.allclose(other, Predictor([model()], block=BLOCK)(bands)["850um"].values)
    if activation == "relu":
        np.testing.assert_allclose(other, oracle(model(activation="relu"), bands), rtol=3e-6)


@pytest.mark.parametrize(
    ("value", "flag"),
    [
        (np.nan, FLAGS["no_coverage"]),
        (0.0, FLAGS["not_positive_input"]),
        (-1.0, FLAGS["not_positive_input"]),
        (np.inf, FLAGS["not_finite"]),
        (-np.inf, FLAGS["not_positive_input"] | FLAGS["not_finite"]),
    ],
)
@pytest.mark.parametrize("column", range(4))
@pytest.mark.parametrize("many", [False, True])
def test_an_unusable_input_gives_nan_and_its_reason(value, flag, column, many):
    bands = sky(64)
    bands[MAPS[column]][3] = value
    if many:  # so many pixels without coverage that the others are gathered
        bands["i250"][10:] = np.nan
    values, flags = Predictor([model()], block=BLOCK)(bands)["850um"]
    assert np.isnan(values[3])
    assert flags[3] == flag
    assert np.isfinite(values[[0, 1, 2, 4]]).all()
    assert not (flags[[0, 1, 2, 4]] & ~np.uint8(FLAGS["outside_training_range"])).any()
    if many:
        assert np.isnan(values[10:]).all()
        assert (flags[10:] == FLAGS["no_coverage"]).all()


def test_missing_coverage_is_the_only_reason_that_is_given_with_it():
    bands = sky(4)
    bands["i160"][:] = np.nan, np.nan, 1.0, 1.0
    bands["i250"][:] = -1.0, np.inf, 1.0, 1.0
    for repeat in (1, 3):  # 3: most pixels missing, so that the others are gathered
        tiled = {k: np.concatenate([np.tile(v[:2], repeat), v[2:]]) for k, v in bands.items()}
        flags = Predictor([model()], block=BLOCK)(tiled)["850um"].flags
        assert (flags[: 2 * repeat] == FLAGS["no_coverage"]).all()


def test_a_result_beyond_float32_is_flagged():
    trained = model()
    layers = (*trained.parameters[:-1], Layer(trained.parameters[-1].weight, np.full(1, 1e4, "f4")))
    values, flags = Predictor([Model(trained.spec, layers, trained.scaling)], block=BLOCK)(sky(8))["850um"]
    assert np.isnan(values).all()
    assert (flags & FLAGS["not_finite"]).all()


def test_two_models_in_one_pass_are_each_alone():
    first, second, bands = model(), model("1380um", 3), sky(5000)
    both = Predictor([first, second])(bands)
    assert list(both) == ["850um", "1380um"]
    for trained in (first, second):
        alone = Predictor([trained])(bands)[trained.spec.label]
        assert alone.values.tobytes() == both[trained.spec.label].values.tobytes()
        assert alone.flags.tobytes() == both[trained.spec.label].flags.tobytes()


def test_models_may_read_different_maps():
    first = model()
    fewer = model("1380um", inputs=first.spec.inputs[2:], input_maps=("other350", "i500"), hidden=(5,))
    predict = Predictor([first, fewer], block=BLOCK)
    assert predict.inputs == (*MAPS, "other350")
    bands = sky(100) | {"other350": sky(100, seed=9)["i350"]}
    np.testing.assert_allclose(predict(bands)["1380um"].values, oracle(fewer, bands), rtol=3e-6)
    np.testing.assert_allclose(predict(bands)["850um"].values, oracle(first, bands), rtol=3e-6)


PIXELS = sky(3000, seed=5)
PIXELS["i350"][100:140] = np.nan
PIXELS["i160"][200:210] = -2.0
EXPECTED = {}


@settings(max_examples=40, deadline=None)
@given(
    label=st.sampled_from(["850um", "1380um"]),
    batch=st.sampled_from([1, 512, 1024, 2000, 5000]),
    start=st.integers(0, 2900),
    length=st.integers(0, 3000),
    shift=st.integers(0, 100),
    holes=st.floats(0, 1),
)
def test_same_bytes_for_any_batch_position_and_neighbours(label, batch, start, length, shift, holes):
    if label not in EXPECTED:
        EXPECTED[label] = Predictor([model(label)], block=BLOCK)(PIXELS)[label]
    stop = min(start + length, 3000)
    bands = {name: np.concatenate([np.ones(shift, "f4"), v[start:stop]]) for name, v in PIXELS.items()}
    kept = np.random.default_rng(stop).random(stop - start) >= holes
    bands["i500"][shift:][~kept] = np.nan
    values, flags = Predictor([model(label)], batch=batch, block=BLOCK)(bands)[label]
    values, flags = values[shift:], flags[shift:]
    assert values[kept].tobytes() == EXPECTED[label].values[start:stop][kept].tobytes()
    assert flags[kept].tobytes() == EXPECTED[label].flags[start:stop][kept].tobytes()
    assert np.isnan(values[~kept]).all()
    assert (flags[~kept] == FLAGS["no_coverage"]).all()


def test_same_bytes_with_the_default_sizes():
    bands = sky(300_001)
    trained = [model(), model("1380um")]
    default = Predictor(trained)(bands)
    for batch in (8192, 65536, 400_000):
        other = Predictor(trained, batch=batch)(bands)
        for label in default:
            assert other[label].values.tobytes() == default[label].values.tobytes()
    one = Predictor(trained)({name: v[150_000:150_001] for name, v in bands.items()})
    assert all(one[label].values[0] == default[label].values[150_000] for label in default)


def test_same_bytes_from_many_threads_at_once_with_one_compilation():
    bands = sky(20_000, seed=8)
    predict = Predictor([model("1380um", seed=4)], batch=4096, block=1024)
    before = _compile.cache_info().misses
    results = [None] * 8
    barrier = threading.Barrier(8)

    def work(i):
        barrier.wait()
        results[i] = predict(bands)["1380um"].values.tobytes()

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(results)) == 1
    assert results[0] is not None
    assert _compile.cache_info().misses == before + 1


def test_a_compiler_without_our_option_will_do(monkeypatch):
    bands = sky(700)
    expected = Predictor([model()], block=BLOCK)(bands)["850um"].values
    monkeypatch.setattr(kernel, "_VECTOR_OPTION", "xla_cpu_no_such_option")
    found = Predictor([model()], block=BLOCK, batch=7 * BLOCK)(bands)["850um"].values  # not yet compiled
    np.testing.assert_allclose(found, expected, rtol=3e-6)
    _compile.cache_clear()


def test_a_model_of_the_same_layers_is_not_compiled_again():
    bands = sky(100)
    first = Predictor([model(seed=1)], block=BLOCK)(bands)["850um"].values
    before = _compile.cache_info().misses
    second = Predictor([model(seed=2)], block=BLOCK)(bands)["850um"].values
    assert _compile.cache_info().misses == before
    assert not np.allclose(first, second)


def test_pickled_it_predicts_the_same():
    predict = Predictor([model()], block=BLOCK)
    bands = sky(50)
    before = predict(bands)["850um"].values
    again = pickle.loads(pickle.dumps(predict))
    assert again(bands)["850um"].values.tobytes() == before.tobytes()


def test_inputs_are_taken_as_float32_of_any_layout():
    predict, bands = Predictor([model()], block=BLOCK), sky(100)
    expected = predict(bands)["850um"].values
    for other in (
        {k: v.astype("f8") for k, v in bands.items()},
        {k: v.astype(">f4") for k, v in bands.items()},
        {k: np.stack([v, v], axis=1)[:, 0] for k, v in bands.items()},
    ):
        assert predict(other)["850um"].values.tobytes() == expected.tobytes()
    huge = {k: np.full(2, 1e300) for k in bands}
    assert (predict(huge)["850um"].flags == FLAGS["not_finite"]).all()


def test_no_pixels_give_no_pixels():
    values, flags = Predictor([model()], block=BLOCK)(sky(0))["850um"]
    assert values.shape == flags.shape == (0,)


def test_refusals():
    predict = Predictor([model()], block=BLOCK)
    bands = sky(10)
    with pytest.raises(MissingMapError, match="'i250' did not come; did you mean"):
        predict({k: v for k, v in bands.items() if k != "i250"})
    with pytest.raises(InputError, match=r"9 pixels.*10"):
        predict(bands | {"i350": bands["i350"][:9]})
    with pytest.raises(InputError, match="one dimension"):
        predict(bands | {"i350": bands["i350"][None]})
    with pytest.raises(InputError, match="numbers"):
        predict(bands | {"i350": np.array(["1"] * 10)})
    with pytest.raises(InputError, match="at least one"):
        Predictor([])
    with pytest.raises(InputError, match="two models predict '850um'"):
        Predictor([model(), model(seed=3)])
    with pytest.raises(InputError, match="`batch` 0"):
        Predictor([model()], batch=0)


def test_memory_grows_with_pixels_batch_and_models():
    def total(**options):
        models = options.pop("models", [model()])
        npix = options.pop("npix", 10**6)
        return sum(Predictor(models, **options).memory_bytes(npix).values())

    assert total(npix=2 * 10**6) > total()
    assert total(batch=10**6) > total(batch=10**5)
    assert total(models=[model(), model("1380um")]) > total()
    assert total(block=65536, batch=65536) > total(batch=65536)


def test_runs_where_jax_runs():
    assert Predictor([model()]).block == (8192 if jax.default_backend() == "cpu" else 1 << 20)
