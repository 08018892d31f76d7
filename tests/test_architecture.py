"""The layers, the homes of the heavy libraries, and the shape of the tree, read from the sources."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LAYERS = ("chunking", "models", "engine", "deploy")
LONGEST_FILE = 450

# Library -> patterns of the only files that may import it.
HOMES = {
    "zarr": ("chunking/*",),
    "astropy": ("chunking/*",),
    "obstore": ("chunking/*",),
    "healpix_geo": ("chunking/*",),
    "xdggs": ("chunking/*",),
    "xarray": ("chunking/*", "engine/*"),
    "jax": ("models/*",),
    "jaxlib": ("models/*",),
    "flax": ("models/*",),
    "optax": ("models/*",),
    "safetensors": ("models/*",),
    "dask": ("engine/*",),
    "distributed": ("engine/*",),
    "ducc0": ("chunking/*", "engine/*", "models/*"),
    "matplotlib": ("chunking/plots*", "engine/*figures*"),
    "healpy": (),
    "sklearn": (),
    "tensorflow": (),
    "pickle": (),
}
# Slow to import and not needed by whoever only wants the module: inside functions everywhere.
ONLY_IN_FUNCTIONS = {"matplotlib", "xarray", "xdggs", "dask", "distributed", "rich", "healpy"}
NOT_OURS = {"build", "dist", "demo-output", "__pycache__"}


@dataclass(frozen=True)
class Import:
    """One imported module: `name` is absolute ("zarr.codecs", "skymill.chunking.store")."""

    file: str
    line: int
    name: str
    relative: bool
    at_top: bool
    for_types: bool = False

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.name}"


def package_files() -> list[Path]:
    return [ROOT / "__init__.py", *(path for layer in LAYERS for path in sorted((ROOT / layer).glob("*.py")))]


def imports_of(source: str, file: str) -> Iterator[Import]:
    """Every import of a file, with relative names resolved and `from package import module` spelt out."""
    package = ["skymill", *Path(file).parts[:-1]]
    tree = ast.parse(source)
    inside: set[ast.AST] = set()
    for_types: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            inside.update(child for child in ast.walk(node) if child is not node)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for_types.update(child for child in ast.walk(node) if child is not node)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(file, node.lineno, alias.name, False, node not in inside, node in for_types)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            stem = [*base, *(node.module or "").split(".")] if node.module else base
            for alias in node.names:
                # `from ..chunking import store` imports a module, `from ..chunking.store import open` a name.
                bare = node.level > 0 and (node.module is None or node.module in LAYERS)
                full = ".".join([*stem, alias.name] if bare else stem)
                yield Import(file, node.lineno, full, node.level > 0, node not in inside, node in for_types)


def all_imports() -> list[Import]:
    found = []
    for path in package_files():
        found += imports_of(path.read_text(), path.relative_to(ROOT).as_posix())
    return found


def breaks_layers(each: Import) -> bool:
    parts = Path(each.file).parts
    if not each.name.startswith("skymill") or len(parts) == 1 or each.name == "skymill.__version__":
        return False
    target = each.name.split(".")[1] if "." in each.name else "the root"
    return target not in LAYERS or LAYERS.index(target) > LAYERS.index(parts[0])


def breaks_homes(each: Import) -> bool:
    if each.for_types:  # never executed
        return False
    library = each.name.split(".")[0]
    at_home = any(fnmatch(each.file, pattern) for pattern in HOMES.get(library, ("*",)))
    return not at_home or (each.at_top and library in ONLY_IN_FUNCTIONS)


def test_there_is_something_to_judge() -> None:
    assert len(package_files()) > 20
    assert len(all_imports()) > 100


def test_layers() -> None:
    assert [str(each) for each in all_imports() if breaks_layers(each)] == []


def test_homes_of_heavy_libraries() -> None:
    assert [str(each) for each in all_imports() if breaks_homes(each)] == []


def test_imports_inside_the_package_are_relative() -> None:
    ours = [each for each in all_imports() if each.name.split(".")[0] == "skymill"]
    assert [str(each) for each in ours if not each.relative] == []


@pytest.mark.parametrize(
    ("source", "file", "layer", "home"),
    [
        ("from ..engine import plan", "chunking/store.py", True, False),
        ("from ..engine.plan import Plan", "models/mlp.py", True, False),
        ("def f():\n    from ..deploy import cli", "engine/plan.py", True, False),
        ("from .. import predict", "engine/plan.py", True, False),
        ("from .. import __version__", "engine/plan.py", False, False),
        ("from ..chunking.tiling import Tiling", "engine/plan.py", False, False),
        ("import zarr", "engine/plan.py", False, True),
        ("import matplotlib", "chunking/plots.py", False, True),
        ("def f():\n    import matplotlib.pyplot", "chunking/plots.py", False, False),
        ("def f():\n    import healpy", "chunking/plots.py", False, True),
        ("from jax import numpy", "models/mlp.py", False, False),
        ("if TYPE_CHECKING:\n    import xarray", "engine/plan.py", False, False),
        ("if TYPE_CHECKING:\n    from distributed import Client", "deploy/session.py", False, False),
        ("if TYPE_CHECKING:\n    from ..engine.plan import Plan", "models/mlp.py", True, False),
        ("def f():\n    from distributed import Client", "deploy/session.py", False, True),
    ],
)
def test_the_judge_sees_what_it_should(source: str, file: str, layer: bool, home: bool) -> None:
    found = list(imports_of(source, file))
    assert any(map(breaks_layers, found)) is layer
    assert any(map(breaks_homes, found)) is home


def test_files_stay_short() -> None:
    paths = [*package_files(), *(ROOT / "tests").rglob("*.py"), *(ROOT / "examples").rglob("*.py")]
    lengths = {path.relative_to(ROOT).as_posix(): len(path.read_text().splitlines()) for path in paths}
    assert {name: length for name, length in lengths.items() if length > LONGEST_FILE} == {}


def test_no_large_files() -> None:
    """Data stay outside; the same limit as in the hooks before a commit."""
    folders = [ROOT / name for name in (*LAYERS, "tests", "examples", "docs")]
    found = (path for folder in folders for path in folder.rglob("*"))
    # What Python compiles comes and goes under our hands, and is no part of the tree.
    files = [path for path in found if "__pycache__" not in path.parts and path.is_file()]
    assert [str(path) for path in files if path.stat().st_size > 500_000] == []


def test_folders_stay_flat() -> None:
    nested = [path for layer in LAYERS for path in (ROOT / layer).glob("*/**/*.py")]
    assert nested == []
    assert not (ROOT / "tests" / "__init__.py").exists()


def test_tests_mirror_the_folders() -> None:
    folders = {path.name for path in (ROOT / "tests").iterdir() if path.is_dir()} - NOT_OURS
    assert set(LAYERS) <= folders
    assert folders <= {*LAYERS, "benchmarks", "science", "faults", "data", "references"}


def folders_of_the_tree() -> set[str]:
    found = {path.name for path in ROOT.iterdir() if path.is_dir() and any(path.iterdir())}
    return {name for name in found - NOT_OURS if not name.startswith(".") and not fnmatch(name, "*.egg-info")}


def test_readme_table_of_folders() -> None:
    rows = re.findall(r"^\| `([\w-]+)/` \|", (ROOT / "README.md").read_text(), flags=re.MULTILINE)
    assert len(rows) == len(set(rows))
    # Others may put a sky of their own into the checkout; what the table names must be there, and all that is code.
    assert set(rows) <= folders_of_the_tree()
    with_code = {name for name in folders_of_the_tree() if any((ROOT / name).rglob("*.py"))}
    assert with_code <= set(rows)
