"""Strict type checkers find nothing in the examples, in a new project, or in calls that name a shape."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import meshwright
from tests.support.running_mesh import MESH, ROOT
from tests.support.services import unavailable

INSTALL = ROOT / "benchmarks/coding/compiler/install"
CALLS = ROOT / "tests/support/typed_calls.py"
RUNTIME = Path(meshwright.__file__).parent.parent


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The files that `mesh init` makes."""
    folder = tmp_path / "own"
    subprocess.run([*MESH, "init", str(folder)], check=True, capture_output=True, cwd=tmp_path)
    return folder


def test_mypy_is_content(project: Path, tmp_path: Path) -> None:
    if find_spec("mypy") is None:
        unavailable("mypy is not installed: make install")
    cache = ["--cache-dir", str(tmp_path / "cache")]
    others = ["--exclude", "/frameworks/"]  # of packages that have an environment of their own
    for checked in (ROOT / "examples", CALLS, project):
        done = subprocess.run(
            [sys.executable, "-m", "mypy", "--strict", "--config-file=", *cache, *others, str(checked)],
            env={**os.environ, "MYPYPATH": str(RUNTIME)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr


def test_pyright_is_content(project: Path, tmp_path: Path) -> None:
    where = subprocess.run(
        [sys.executable, str(INSTALL), "--where"], capture_output=True, text=True, check=False
    )
    if where.returncode:
        unavailable("pyright is not installed: make tsc")
    linked = tmp_path / "checked"
    linked.mkdir()
    for checked in (ROOT / "examples", CALLS, project):
        (linked / checked.name).symlink_to(checked)
    settings = {"typeCheckingMode": "strict", "extraPaths": [str(RUNTIME)], "include": ["checked"]}
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(settings))
    command = [str(Path(where.stdout.strip(), "node_modules/.bin/pyright")), "-p", str(tmp_path)]
    done = subprocess.run(
        [*command, "--pythonpath", sys.executable], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 errors, 0 warnings" in done.stdout
