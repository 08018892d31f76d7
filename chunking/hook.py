"""The accessor ``.sky`` is there whatever the order in which xarray and skymill are imported.

Importing xarray costs seconds, so ``import skymill`` must not do it; yet a Dataset made by somebody
else's code has to know ``.sky``.  So skymill registers the accessor at once if xarray is loaded, and
otherwise waits for whoever loads it: a finder in front of `sys.meta_path` leaves every other import
alone, and for ``xarray`` wraps the loader that the other finders found, so that registration follows
the execution of the module.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # these, and `logging`, cost more than all the rest of `import skymill`
    from collections.abc import Sequence
    from importlib.abc import Loader
    from importlib.machinery import ModuleSpec
    from types import ModuleType

WATCHED = "xarray"


def install() -> None:
    """Register the accessor now if xarray is loaded, and whenever it is loaded from now on.

    Calling it again changes nothing.

    Examples
    --------
    >>> from skymill.chunking import hook
    >>> hook.install()
    """
    if not any(getattr(finder, "is_skymill_accessor_finder", False) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
    ensure()


def ensure() -> None:
    """Register the accessor if xarray is loaded completely; do nothing otherwise.

    It also serves the one case that `install` cannot: skymill imported while xarray itself is still
    being imported.

    Examples
    --------
    >>> from skymill.chunking import hook
    >>> hook.ensure()
    """
    module = sys.modules.get(WATCHED)
    if module is None or getattr(getattr(module, "__spec__", None), "_initializing", False):
        return
    _register()


def _register() -> None:
    try:
        from .accessor import register

        register()
    except Exception:
        import logging

        # An accessor that is missing is a small loss; an xarray that cannot be imported is a large one.
        logging.getLogger("skymill").warning("the accessor `.sky` could not be registered", exc_info=True)


class _Finder:
    """Finds nothing itself; wraps what the other finders find for xarray."""

    is_skymill_accessor_finder = True

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != WATCHED:
            return None
        for finder in list(sys.meta_path):
            if getattr(finder, "is_skymill_accessor_finder", False) or not hasattr(finder, "find_spec"):
                continue
            spec = finder.find_spec(fullname, path, target)
            if spec is not None:
                if spec.loader is not None and hasattr(spec.loader, "exec_module"):
                    spec.loader = _Loader(spec.loader)  # type: ignore[assignment]
                return spec
        return None


class _Loader:
    """Executes a module with its own loader, gives that loader back, then registers the accessor."""

    def __init__(self, inner: Loader) -> None:
        self._inner = inner

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._inner.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        # Resources, tracebacks and pickles look at the loader: they must see the real one.
        module.__loader__ = self._inner
        if module.__spec__ is not None:
            module.__spec__.loader = self._inner
        self._inner.exec_module(module)
        _register()

    def __getattr__(self, name: str) -> object:
        # `copy` and `pickle` ask an object without state for its attributes.
        if name == "_inner":
            raise AttributeError(name)
        return getattr(self._inner, name)
