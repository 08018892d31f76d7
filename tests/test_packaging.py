"""The wheel, and the package seen from elsewhere: other folders, other names of the checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import entry_points
from pathlib import Path

import pytest
import skymill as sm

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PACKAGES = ("", "chunking", "models", "engine", "deploy")
LEFT_OUT = {"build", "dist", "demo-output"}


def copy_checkout(target: Path) -> Path:
    """Copy what belongs to the repository: no environment, no caches, no results."""

    def ignore(folder: str, names: list[str]) -> set[str]:
        hidden = {name for name in names if name.startswith(".") or name == "__pycache__"}
        made = {name for name in names if name.endswith((".egg-info", ".zarr")) or name in LEFT_OUT}
        return hidden | made

    shutil.copytree(ROOT, target, ignore=ignore)
    return target


def run(command: list[str], folder: Path, **variables: str) -> str:
    environment = {**os.environ, **variables}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout whose folder name is no Python name, reached as `skymill` by a link, as an install would."""
    folder = tmp_path_factory.mktemp("elsewhere")
    copied = copy_checkout(folder / "sky-mill x")
    (folder / "path").mkdir()
    (folder / "path" / "skymill").symlink_to(copied)
    return copied


@pytest.fixture(scope="module")
def wheel(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    # The build backend is called directly: no network, no isolated environment.
    folder = tmp_path_factory.mktemp("wheel")
    code = f"from setuptools.build_meta import build_wheel; print(build_wheel({str(folder)!r}))"
    name = run([sys.executable, "-W", "ignore", "-c", code], checkout).splitlines()[-1]
    return folder / name


def test_version_is_the_projects() -> None:
    assert sm.__version__ == PROJECT["project"]["version"]


def test_changelog_begins_with_the_version() -> None:
    headings = [line for line in (ROOT / "CHANGELOG.md").read_text().splitlines() if line.startswith("## ")]
    assert sm.__version__ in headings[0]


def test_wheel_holds_exactly_the_packages(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        licences = [name for name in archive.namelist() if name.endswith("/LICENSE")]
    expected = {"skymill/py.typed"}
    for package in PACKAGES:
        expected |= {f"skymill/{path.relative_to(ROOT)}" for path in (ROOT / package).glob("*.py")}
    for package in ("chunking", "engine"):
        expected.add(f"skymill/{package}/DESIGN.md")
    assert names == expected
    assert len(licences) == 1


def test_wheel_works_from_another_folder(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    code = "import skymill as sm; print(sm.__file__); print(sm.Tiling(64).npix)"
    lines = run([sys.executable, "-c", code], tmp_path, PYTHONPATH=str(tmp_path / "site")).splitlines()
    assert lines == [str(tmp_path / "site" / "skymill" / "__init__.py"), "49152"]


def test_nobody_elses_models_are_shadowed(tmp_path: Path) -> None:
    """The folders stand at the top of the checkout, yet `import models` is the user's own module."""
    (tmp_path / "models.py").write_text("mine = True\n")
    code = "import models, skymill; print(models.mine, skymill.models.__name__)"
    assert run([sys.executable, "-c", code], tmp_path).split() == ["True", "skymill.models"]
    with pytest.raises(subprocess.CalledProcessError):
        subprocess.run([sys.executable, "-c", "import chunking"], cwd=tmp_path, check=True, capture_output=True)


def test_command_is_installed() -> None:
    (found,) = entry_points(group="console_scripts", name="skymill")
    assert found.value == "skymill.deploy.cli:main"


@pytest.mark.slow
def test_checkout_with_a_hyphen_in_its_name(checkout: Path) -> None:
    """Tests, and the package they see, work from a folder whose name is no Python name."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    link = str(checkout.parent / "path")
    run([*command, "tests/chunking/test_tiling.py", "tests/engine/test_worker.py"], checkout, PYTHONPATH=link)
    run([*command, "tests/test_public.py", "-k", "every_name or names_and_homes"], checkout, PYTHONPATH=link)
    where = run([sys.executable, "-c", "import skymill; print(skymill.__file__)"], checkout, PYTHONPATH=link)
    assert Path(where.strip()).resolve() == (checkout / "__init__.py").resolve()


def test_make_says_what_is_missing(checkout: Path, tmp_path: Path) -> None:
    """Without a Python that is new enough, one message says what to do, and nothing is left behind."""
    make = shutil.which("make")
    if make is None:
        pytest.skip("no make on this machine")
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("sh", "mkdir", "rm", "ln", "touch", "env"):
        found = shutil.which(name)
        assert found is not None
        (tools / name).symlink_to(found)
    old = tools / "python3"
    old.write_text("#!/bin/sh\nexit 1\n")  # a shim of a version that is not installed
    old.chmod(0o755)
    environment = {"PATH": str(tools), "HOME": str(tmp_path)}
    done = subprocess.run([make, "lint"], cwd=checkout, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "needs a Python >= 3.12" in done.stderr
    assert "make PYTHON=" in done.stderr
    assert not (checkout / ".venv").exists()


def test_ci_runs_what_a_developer_runs() -> None:
    text = (ROOT / ".ci" / "run").read_text()
    assert "set -euo pipefail" in text
    assert "make test" in text
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
