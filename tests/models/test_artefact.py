"""Artefacts: what is written comes back, and whatever is damaged is refused with its cause and a cure."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from skymill.chunking.errors import (
    DiskFullError,
    FormatError,
    IdentityError,
    InputError,
    SkymillError,
    StoreNotFoundError,
)
from skymill.models import Model, Predictor, artefact, dust_mlp, load_model, save_model
from skymill.models.mlp import Layer, to_arrays

MODEL = Model.untrained(dust_mlp("850um"), seed=3)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save_model(tmp_path / "model", Model(MODEL.spec, MODEL.parameters, MODEL.scaling, {"seed": 3}))
    return tmp_path / "model"


def test_what_is_written_comes_back(saved: Path) -> None:
    there = load_model(saved)
    assert there.spec == MODEL.spec
    assert there.scaling == MODEL.scaling
    assert there.card == {"seed": 3}
    for a, b in zip(there.parameters, MODEL.parameters, strict=True):
        assert a.weight.tobytes() == b.weight.tobytes()
        assert a.bias.tobytes() == b.bias.tobytes()
    bands = {name: np.array([1.0, 2.0], "f4") for name in MODEL.spec.input_maps}
    before, after = (Predictor([m], block=512)(bands)["850um"].values for m in (MODEL, there))
    assert before.tobytes() == after.tobytes()


def test_only_two_plain_files_are_written(saved: Path) -> None:
    assert sorted(file.name for file in saved.iterdir()) == ["model.json", "weights.safetensors"]
    assert [file.name for file in saved.parent.iterdir()] == ["model"]
    assert os.access(saved, os.R_OK | os.X_OK)
    assert saved.stat().st_mode & 0o755 == 0o755
    for file in saved.iterdir():
        assert b"pickle" not in file.read_bytes()
    loaded = safetensors.numpy.load_file(saved / "weights.safetensors")
    assert sum(array.size for array in loaded.values()) == 173


def test_no_module_of_the_package_unpickles() -> None:
    root = Path(artefact.__file__).parent
    for file in root.glob("*.py"):
        text = file.read_text()
        assert "import pickle" not in text
        assert "allow_pickle" not in text


def test_the_digest_tells_models_apart_and_forgets_the_card(tmp_path: Path) -> None:
    digest = save_model(tmp_path / "a", MODEL)
    assert digest == MODEL.digest == load_model(tmp_path / "a").digest
    card = Model(MODEL.spec, MODEL.parameters, MODEL.scaling, {"anything": 1})
    assert card.digest == digest
    weights = (MODEL.parameters[0]._replace(bias=np.ones(12, "f4")), *MODEL.parameters[1:])
    others = [
        Model(MODEL.spec, weights, MODEL.scaling),
        Model(MODEL.spec.replace(activation="relu"), MODEL.parameters, MODEL.scaling),
        Model(MODEL.spec, MODEL.parameters, type(MODEL.scaling)(**{**MODEL.scaling.__dict__, "output_scale": 2.0})),
    ]
    assert len({digest, *(other.digest for other in others)}) == 4


def test_a_card_of_numpy_numbers_and_nan_is_written_as_json(tmp_path: Path) -> None:
    card = {"a": np.float32(0.5), "b": np.arange(2), "c": (1, float("nan")), "d": {"e": np.int64(3)}, 5: True}
    save_model(tmp_path / "m", Model(MODEL.spec, MODEL.parameters, MODEL.scaling, card))
    assert load_model(tmp_path / "m").card == {"a": 0.5, "b": [0, 1], "c": [1, None], "d": {"e": 3}, "5": True}


def test_it_refuses_to_overwrite(saved: Path) -> None:
    before = (saved / "model.json").read_bytes()
    other = Model.untrained(dust_mlp("1380um"))
    with pytest.raises(IdentityError, match="overwrite=True"):
        save_model(saved, other)
    assert (saved / "model.json").read_bytes() == before
    assert save_model(saved, other, overwrite=True) == other.digest
    assert load_model(saved).spec == other.spec
    assert [file.name for file in saved.parent.iterdir()] == ["model"]


def test_it_never_replaces_what_is_not_a_model(tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "text").write_text("years of work")
    (tmp_path / "file").write_text("")
    for name in ("thesis", "file"):
        with pytest.raises(IdentityError, match="is not a model; choose another"):
            save_model(tmp_path / name, MODEL, overwrite=True)
    assert (tmp_path / "thesis" / "text").read_text() == "years of work"


def test_an_empty_folder_and_missing_parents_are_fine(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    save_model(tmp_path / "empty", MODEL)
    save_model(tmp_path / "a" / "b" / "c", MODEL)
    assert load_model(tmp_path / "empty").digest == load_model(tmp_path / "a" / "b" / "c").digest


@pytest.mark.parametrize("step", ["_write", "_move_into_place"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_full_disk_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, overwrite: bool
) -> None:
    if overwrite:
        save_model(tmp_path / "m", MODEL)

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(artefact, step, full)
    with pytest.raises(DiskFullError, match="no space left"):
        save_model(tmp_path / "m", Model.untrained(dust_mlp("1380um")), overwrite=overwrite)
    assert [file.name for file in tmp_path.iterdir()] == (["m"] if overwrite else [])
    if overwrite:
        assert load_model(tmp_path / "m").digest == MODEL.digest


def test_a_failed_replacement_puts_the_old_model_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_model(tmp_path / "m", MODEL)
    rename = Path.rename

    def failing(self: Path, target: Any) -> Path:
        if Path(target) == tmp_path / "m" and self.name != "model":
            raise PermissionError(errno.EACCES, "denied")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(PermissionError):
        save_model(tmp_path / "m", Model.untrained(dust_mlp("1380um")), overwrite=True)
    assert load_model(tmp_path / "m").digest == MODEL.digest


# Damage, one kind each; `_document` and `_weights` keep sizes and digests right, so that the deeper checks are reached.


def _document(saved: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    document = json.loads((saved / "model.json").read_text())
    change(document)
    (saved / "model.json").write_text(json.dumps(document))


def _weights(saved: Path, change: Callable[[dict[str, Any]], Any], shapes: bool = True) -> None:
    arrays = dict(to_arrays(MODEL.parameters))
    change(arrays)
    content = safetensors.numpy.save(arrays)
    (saved / "weights.safetensors").write_bytes(content)
    described = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    if shapes:
        described["shapes"] = {name: list(array.shape) for name, array in arrays.items()}  # type: ignore[assignment]
    _document(saved, lambda d: d["weights"].update(described))


def _cut(name: str, keep: float) -> Callable[[Path], None]:
    def damage(saved: Path) -> None:
        content = (saved / name).read_bytes()
        (saved / name).write_bytes(content[: int(keep * len(content))])

    return damage


def _flip(saved: Path) -> None:
    content = bytearray((saved / "weights.safetensors").read_bytes())
    content[-5] ^= 1
    (saved / "weights.safetensors").write_bytes(bytes(content))


def _not_safetensors(saved: Path) -> None:
    content = b"\x80\x04not a safetensors file"
    (saved / "weights.safetensors").write_bytes(content)
    described = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    _document(saved, lambda d: d["weights"].update(described))


def _set(*path: str, to: Any) -> Callable[[Path], None]:
    def change(document: dict[str, Any]) -> None:
        for key in path[:-1]:
            document = document[key]
        document[path[-1]] = to

    return lambda saved: _document(saved, change)


def _del(*path: str) -> Callable[[Path], None]:
    def change(document: dict[str, Any]) -> None:
        for key in path[:-1]:
            document = document[key]
        del document[path[-1]]

    return lambda saved: _document(saved, change)


def _array(name: str, value: Any, *, shapes: bool = True) -> Callable[[Path], None]:
    return lambda saved: _weights(saved, lambda arrays: arrays.update({name: value}), shapes)


NAN = np.full((12, 4), np.nan, "f4")
DAMAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no document": (lambda p: (p / "model.json").unlink(), "holds no model.json"),
    "no weights": (lambda p: (p / "weights.safetensors").unlink(), "lacks its file weights"),
    "truncated weights": (_cut("weights.safetensors", 0.7), "truncated"),
    "empty weights": (_cut("weights.safetensors", 0.0), "0 bytes"),
    "truncated document": (_cut("model.json", 0.7), "not JSON"),
    "empty document": (_cut("model.json", 0.0), "not JSON"),
    "binary document": (lambda p: (p / "model.json").write_bytes(b"\xff\xfe\x00"), "not JSON"),
    "a list": (lambda p: (p / "model.json").write_text("[1]"), "not a skymill model"),
    "another format": (_set("format", to="onnx"), "format 'onnx' came"),
    "no format": (_del("format"), "format None came"),
    "newer": (_set("version", to=2), "version 2.*up to 1; update skymill"),
    "much newer, otherwise different": (
        lambda p: (p / "model.json").write_text('{"format": "skymill-model", "version": 99, "graph": {}}'),
        "version 99",
    ),
    "version 0": (_set("version", to=0), "version 0"),
    "version text": (_set("version", to="1"), "version '1'"),
    "version true": (_set("version", to=True), "version True"),
    "unknown key": (_set("optimizer", to={}), "unknown key 'optimizer'"),
    "misspelt key": (lambda p: _set("scalings", to={})(p), "did you mean 'scaling'"),
    **{f"no {key}": (_del(key), f"lacks the key '{key}'") for key in ("spec", "scaling", "weights", "digest", "card")},
    "one bit of the weights": (_flip, "sha256 differs"),
    "weights of another kind": (_not_safetensors, "not a safetensors file"),
    "weights elsewhere": (_set("weights", "file", to="../other.safetensors"), "unknown way"),
    "weights described otherwise": (_set("weights", "codec", to="zip"), "unknown way"),
    "weights described by a text": (_set("weights", to="weights.safetensors"), "unknown way"),
    "missing array": (lambda p: _weights(p, lambda a: a.pop("layer1.bias")), "'layer1.bias' is missing"),
    "additional array": (_array("layer3.bias", np.zeros(2, "f4")), "'layer3.bias' is unknown"),
    "other shape": (_array("layer0.weight", np.zeros((12, 5), "f4")), r"shape \(12, 5\), \(12, 4\) expected"),
    "transposed": (_array("layer0.weight", np.zeros((4, 12), "f4")), r"\(12, 4\) expected"),
    "float64": (_array("layer0.weight", np.zeros((12, 4))), "dtype float64"),
    "half precision": (_array("layer0.weight", np.zeros((12, 4), "f2")), "dtype float16"),
    "nan": (_array("layer0.weight", NAN), "not finite"),
    "infinite": (_array("layer2.bias", np.full(1, np.inf, "f4")), "not finite"),
    "shapes that the document does not say": (
        _array("layer0.weight", np.zeros((12, 5), "f4"), shapes=False),
        "other arrays than",
    ),
    "other layers": (_set("spec", "hidden", to=[12, 9]), r"expected from the spec"),
    "fewer inputs": (
        lambda p: _document(p, lambda d: d["spec"].update(inputs=d["spec"]["inputs"][:3], input_maps=[])),
        "expected from the spec",
    ),
    "unknown field of the spec": (_set("spec", "dropout", to=0.5), "unknown key 'dropout'"),
    "unknown activation": (_set("spec", "activation", to="swish"), "`activation` 'swish'"),
    "spec of a text": (_set("spec", to="mlp"), "is str"),
    "halo": (_set("spec", "halo", to=3), "`halo` 3"),
    "scaling too short": (
        lambda p: _document(p, lambda d: d["scaling"].update({k: [1.0] for k in ("centre", "scale", "low", "high")})),
        "scaling is for 1 inputs, 4 expected",
    ),
    "scale of zero": (_set("scaling", "scale", to=[1.0, 1.0, 0.0, 1.0]), "not positive"),
    "scaling not a number": (_set("scaling", "centre", to=["a"] * 4), "cannot be used"),
    "unknown scaling": (_set("scaling", "mean", to=[0.0]), "cannot be used"),
    "scaling of nothing": (_set("scaling", to=None), "cannot be used"),
    "changed spec": (_set("spec", "activation", to="relu"), "digest differs"),
    "changed scaling": (_set("scaling", "output_centre", to=0.5), "digest differs"),
    "changed digest": (_set("digest", to="0" * 64), "digest differs"),
    "card of a text": (_set("card", to="good model"), "card"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_refused_with_its_cause(saved: Path, name: str) -> None:
    damage, message = DAMAGES[name]
    damage(saved)
    with pytest.raises(FormatError, match=message) as caught:
        load_model(saved)
    assert str(saved) in str(caught.value)


def test_what_is_not_there_is_said_to_be_not_there(tmp_path: Path) -> None:
    with pytest.raises(StoreNotFoundError, match="skymill train"):
        load_model(tmp_path / "nothing")
    (tmp_path / "folder").mkdir()
    with pytest.raises(FormatError, match="is not a model"):
        load_model(tmp_path / "folder")
    (tmp_path / "file").write_text("")
    with pytest.raises(FormatError, match="is not a model"):
        load_model(tmp_path / "file")


def test_every_truncation_is_noticed(saved: Path, tmp_path: Path) -> None:
    for name in ("weights.safetensors", "model.json"):
        size = (saved / name).stat().st_size
        for keep in {0, 1, 7, 8, 9, size // 2, size - 2}:
            copy = tmp_path / "copy"
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(saved, copy)
            os.truncate(copy / name, keep)
            with pytest.raises(SkymillError):
                load_model(copy)


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (MODEL.parameters[:2], "is missing"),
        ((*MODEL.parameters, MODEL.parameters[-1]), "is unknown"),
        ((Layer(NAN, np.zeros(12, "f4")), *MODEL.parameters[1:]), "not finite"),
        ((Layer(np.zeros((4, 12), "f4"), np.zeros(12, "f4")), *MODEL.parameters[1:]), "shape"),
    ],
)
def test_a_model_of_wrong_arrays_cannot_be_made(layers: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Model(MODEL.spec, layers, MODEL.scaling)
