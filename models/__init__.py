"""What the sky is made of: emission laws, networks, training, artefacts, synthetic skies."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .artefact import Model, load_model, save_model
    from .kernel import Predictor
    from .presets import dust_mlp, known_models, model_spec
    from .spec import ModelSpec

# Loaded at first use: whoever only names a preset need not wait for JAX.
_HOMES = {
    "Model": "artefact",
    "ModelSpec": "spec",
    "Predictor": "kernel",
    "dust_mlp": "presets",
    "known_models": "presets",
    "load_model": "artefact",
    "model_spec": "presets",
    "save_model": "artefact",
}

__all__ = [
    "Model",
    "ModelSpec",
    "Predictor",
    "dust_mlp",
    "known_models",
    "load_model",
    "model_spec",
    "save_model",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f".{_HOMES[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
