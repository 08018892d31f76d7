"""The models that come with skymill, and the registry where other packages add theirs."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points

from ..chunking.bands import band
from ..chunking.errors import InputError, nearest
from .spec import ModelSpec

GROUP = "skymill.models"

_HERSCHEL = ("160um", "250um", "350um", "500um")
# Hidden layers of Paradis et al. 2024, section 3: 4-12-8-1 (173 parameters), 4-60-30-1 (2161).
_DUST_HIDDEN = {"850um": (12, 8), "1380um": (60, 30)}


def dust_mlp(label: str) -> ModelSpec:
    """Return the network that predicts dust emission from the Herschel bands 160 to 500 um.

    Parameters
    ----------
    label : str
        "850um" (353 GHz; 4-12-8-1, 173 parameters) or "1380um", also written "1.38mm" (217 GHz;
        4-60-30-1, 2161 parameters); hidden layers with tanh, a linear output (our reading, the paper
        does not say), Huber loss and Adam at 1e-3.

    Raises
    ------
    InputError
        If there is no such preset.

    References
    ----------
    Paradis et al. 2024, A&A 691, A241, section 3.

    Examples
    --------
    >>> dust_mlp("1.38mm").label, dust_mlp("1.38mm").sizes
    ('1380um', (4, 60, 30, 1))
    """
    try:
        output = band(label)
    except InputError:
        output = None
    if output is None or output.name not in _DUST_HIDDEN:
        raise InputError(f"there is no dust network for {label!r}; {nearest(str(label), _DUST_HIDDEN)}")
    return ModelSpec(
        name=f"dust-{output.name}",
        label=output.name,
        inputs=tuple(band(name) for name in _HERSCHEL),
        output=output,
        hidden=_DUST_HIDDEN[output.name],
        description=f"Dust emission at {output.label} from Herschel 160, 250, 350 and 500 um.",
    )


_OURS: dict[str, Callable[[], ModelSpec]] = {
    "dust-850um": lambda: dust_mlp("850um"),
    "dust-1380um": lambda: dust_mlp("1380um"),
}


def known_models() -> tuple[str, ...]:
    """Return the names of all models that can be trained: ours and those of entry points.

    Raises
    ------
    InputError
        If two packages register the same name, or one takes a name of ours.

    Examples
    --------
    >>> "dust-850um" in known_models()
    True
    """
    return tuple(sorted([*_OURS, *_registered()]))


def model_spec(model: str | ModelSpec) -> ModelSpec:
    """Return the spec of a name.

    Parameters
    ----------
    model : str or ModelSpec
        A name of `known_models`; a spec comes back as it is.

    Raises
    ------
    InputError
        If no model has this name, two have it, or what a package registered is not a `ModelSpec`.

    Examples
    --------
    >>> model_spec("dust-850um").n_parameters
    173
    """
    if isinstance(model, ModelSpec):
        return model
    others = _registered()
    if not isinstance(model, str) or model not in {*_OURS, *others}:
        raise InputError(f"model {model!r} is not known; {nearest(str(model), [*_OURS, *others])}")
    if model in _OURS:
        return _OURS[model]()
    loaded = others[model].load()
    spec = loaded if isinstance(loaded, ModelSpec) else loaded() if callable(loaded) else loaded
    if not isinstance(spec, ModelSpec):
        raise InputError(
            f"the entry point {model!r} = {others[model].value} gave {type(spec).__name__}; "
            "a ModelSpec, or a function that returns one, expected."
        )
    return spec


def _registered() -> dict[str, EntryPoint]:
    found: dict[str, EntryPoint] = {}
    for entry in entry_points(group=GROUP):
        if entry.name in _OURS or entry.name in found:
            other = found[entry.name].value if entry.name in found else "skymill itself"
            raise InputError(
                f"two packages register the model {entry.name!r}: {other} and {entry.value}; "
                "uninstall one of them, or rename its entry point."
            )
        found[entry.name] = entry
    return found
