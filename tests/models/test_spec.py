"""Specs and the registry: what is refused, what follows from what, what survives JSON."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from importlib.metadata import EntryPoint
from typing import Any

import numpy as np
import pytest
from skymill.chunking.bands import band
from skymill.chunking.errors import FormatError, InputError
from skymill.models import ModelSpec, dust_mlp, known_models, model_spec, presets


def test_the_published_numbers_of_parameters() -> None:
    assert dust_mlp("850um").sizes == (4, 12, 8, 1)
    assert dust_mlp("850um").n_parameters == 173
    assert dust_mlp("1.38mm").sizes == (4, 60, 30, 1)
    assert dust_mlp("1.38mm").n_parameters == 2161


def test_the_published_training() -> None:
    spec = dust_mlp("850um")
    assert (spec.activation, spec.loss_delta, spec.learning_rate) == ("tanh", 1.0, 1e-3)
    assert [b.name for b in spec.inputs] == ["160um", "250um", "350um", "500um"]
    assert spec.input_maps == ("i160", "i250", "i350", "i500")


@pytest.mark.parametrize("text", ["1.38mm", "1380um", "217GHz"])
def test_one_preset_under_several_spellings(text: str) -> None:
    spec = dust_mlp(text)
    assert (spec.name, spec.label, spec.target_map) == ("dust-1380um", "1380um", "i1380um")


def test_names_of_the_registry() -> None:
    assert {"dust-850um", "dust-1380um"} <= set(known_models())
    assert model_spec("dust-850um") == dust_mlp("850um")
    assert model_spec(dust_mlp("850um")) == dust_mlp("850um")


@pytest.mark.parametrize("wrong", ["dust-850", "dust_850um", "", None, 850])
def test_an_unknown_name_lists_the_known(wrong: Any) -> None:
    with pytest.raises(InputError, match="dust-1380um"):
        model_spec(wrong)


@pytest.mark.parametrize("wrong", ["500um", "nonsense", "870um", ""])
def test_an_unknown_preset_lists_the_known(wrong: str) -> None:
    with pytest.raises(InputError, match="1380um"):
        dust_mlp(wrong)


def _register(monkeypatch: pytest.MonkeyPatch, *entries: tuple[str, str]) -> None:
    found = [EntryPoint(name, value, presets.GROUP) for name, value in entries]
    monkeypatch.setattr(presets, "entry_points", lambda group: found if group == presets.GROUP else [])


OTHER = dust_mlp("850um").replace(name="other", hidden=(3,))


def make_other() -> ModelSpec:
    return OTHER


def test_models_of_other_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "a_package", sys.modules[__name__])
    _register(monkeypatch, ("other", "a_package:OTHER"), ("other2", "a_package:make_other"))
    assert {"other", "other2", "dust-850um"} <= set(known_models())
    assert model_spec("other") == model_spec("other2") == OTHER


@pytest.mark.parametrize("names", [("twice", "twice"), ("dust-850um",)])
def test_a_name_given_twice_is_an_error(monkeypatch: pytest.MonkeyPatch, names: tuple[str, ...]) -> None:
    _register(monkeypatch, *((name, "json:loads") for name in names))
    with pytest.raises(InputError, match=f"two packages register the model '{names[0]}'"):
        known_models()
    with pytest.raises(InputError, match="two packages"):
        model_spec("dust-1380um")


def test_an_entry_point_that_is_no_spec(monkeypatch: pytest.MonkeyPatch) -> None:
    _register(monkeypatch, ("broken", "math:pi"))
    with pytest.raises(InputError, match="gave float; a ModelSpec"):
        model_spec("broken")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "a b"}, "`name`"),
        ({"name": ""}, "`name`"),
        ({"label": "850/um"}, "`label`"),
        ({"inputs": ()}, "`inputs`"),
        ({"inputs": ("160um",)}, "`inputs`"),
        ({"inputs": (band("160um"),) * 2}, "a band twice"),
        ({"output": "850um"}, "`output`"),
        ({"hidden": (12, 0)}, "`hidden` 0"),
        ({"hidden": (12.5,)}, "`hidden`"),
        ({"hidden": (True,)}, "`hidden`"),
        ({"hidden": 12}, r"a tuple expected, such as \(12, 8\)"),
        ({"hidden": "12"}, "a tuple expected"),
        ({"input_maps": ("i160",)}, "`input_maps`"),
        ({"input_maps": ("a", "a", "b", "c")}, "`input_maps`"),
        ({"target_map": "i160"}, "also an input"),
        ({"activation": "tan"}, "did you mean 'tanh'"),
        ({"schedule": "cosinus"}, "did you mean 'cosine'"),
        ({"loss_delta": 0}, "`loss_delta`"),
        ({"loss_delta": math.nan}, "`loss_delta`"),
        ({"learning_rate": -1e-3}, "`learning_rate`"),
        ({"learning_rate": 10.0}, "`learning_rate`"),
        ({"learning_rate": "fast"}, "`learning_rate`"),
        ({"batch_size": 0}, "`batch_size`"),
        ({"max_epochs": 0}, "`max_epochs`"),
        ({"min_steps": 0}, "`min_steps`"),
        ({"patience": math.inf}, "`patience`"),
        ({"halo": -1}, "`halo`"),
        ({"halo": 1}, "one pixel"),
        ({"hiden": (3,)}, "did you mean 'hidden'"),
    ],
)
def test_what_cannot_be_used_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        dust_mlp("850um").replace(**change)


def test_numbers_of_numpy_are_numbers() -> None:
    spec = dust_mlp("850um").replace(hidden=np.array([3, 2]), learning_rate=np.float32(0.5), patience=np.int64(4))
    assert spec == dust_mlp("850um").replace(hidden=[3, 2], learning_rate=0.5, patience=4)
    assert json.loads(json.dumps(spec.to_dict()))["learning_rate"] == 0.5


def test_names_of_maps_follow_unless_they_were_chosen() -> None:
    spec = dust_mlp("850um")
    assert spec.replace(inputs=(band("350um"), band("100um"))).input_maps == ("i350", "i100")
    assert spec.replace(label="other").target_map == "iother"
    assert spec.replace(target_map="truth_850um").replace(label="other").target_map == "truth_850um"


@pytest.mark.parametrize(
    "spec",
    [
        dust_mlp("850um"),
        dust_mlp("1380um").replace(
            hidden=(), loss_delta=math.inf, schedule="constant", patience=3, input_maps=("a", "b", "c", "d")
        ),
    ],
)
def test_json_gives_the_same_spec_back(spec: ModelSpec) -> None:
    text = json.dumps(spec.to_dict(), allow_nan=False)
    assert ModelSpec.from_dict(json.loads(text)) == spec


def _without(key: str) -> dict[str, Any]:
    return {k: v for k, v in dust_mlp("850um").to_dict().items() if k != key}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (_without("hidden"), "lacks the key 'hidden'"),
        (_without("name"), "lacks the key 'name'"),
        (dust_mlp("850um").to_dict() | {"dropout": 0.1}, "unknown key 'dropout'"),
        (dust_mlp("850um").to_dict() | {"inputs": [{"name": "a", "beam": 1}]}, "unknown key 'beam'"),
        (dust_mlp("850um").to_dict() | {"inputs": [{"label": "a"}]}, "lacks the key 'name'"),
        (dust_mlp("850um").to_dict() | {"inputs": [3]}, "band of the model spec is int"),
        (dust_mlp("850um").to_dict() | {"inputs": 3}, "cannot be used"),
        (dust_mlp("850um").to_dict() | {"hidden": None}, "cannot be used"),
        (dust_mlp("850um").to_dict() | {"patience": "long"}, "`patience`"),
        ([1, 2], "is list"),
    ],
)
def test_a_damaged_description_is_refused(values: Any, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        ModelSpec.from_dict(values)


def test_presets_do_not_load_jax() -> None:
    code = (
        "import sys, skymill.models as m; m.dust_mlp('850um'); m.known_models(); m.Model; m.load_model; "
        "sys.exit('jax' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_models_lists_and_refuses_names() -> None:
    import skymill.models as models

    assert {"dust_mlp", "Predictor"} <= set(dir(models))
    assert all(hasattr(models, name) for name in models.__all__)
    with pytest.raises(AttributeError, match="no attribute 'dust_mpl'"):
        models.dust_mpl  # noqa: B018
