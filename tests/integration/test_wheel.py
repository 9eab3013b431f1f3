"""What is in the wheel: the package, and the project folder that `mesh` falls back to."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The paths in a wheel that is built from this tree."""
    target = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(target)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = target.glob("*.whl")
    return set(zipfile.ZipFile(wheel).namelist())


def sources(folder: Path) -> set[str]:
    return {
        path.relative_to(folder.parent).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_the_wheel_holds_the_whole_package(names: set[str]) -> None:
    assert sources(ROOT / "runtime/meshwright") <= names


def test_the_wheel_holds_all_that_a_project_starts_from(names: set[str]) -> None:
    folders = [ROOT / name for name in ("actors", "prompts", "components")]
    project = {"litellm_config.yaml"}.union(*map(sources, folders))
    assert {f"meshwright/_project/{name}" for name in project} <= names


def test_the_wheel_puts_nothing_beside_the_package(names: set[str]) -> None:
    beside = {name.split("/")[0] for name in names} - {"meshwright"}
    assert all(name.endswith(".dist-info") for name in beside)
