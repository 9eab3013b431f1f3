"""The wheel in bare environments: each Python, as nobody, without network, home or git."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.installed import NO_NETWORK
from tests.support.services import unavailable

ROOT = Path(__file__).resolve().parents[3]
UV = str(Path(sys.executable).with_name("uv"))
PYENV = Path("~/.pyenv/versions").expanduser()
NOBODY = "65534"
HOMES = ("/root", "/home")

pytestmark = pytest.mark.needs("bwrap", "git")
Box = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel that is built from this tree."""
    target = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(target)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (built,) = target.glob("*.whl")
    return built


def installed(*command: str | Path) -> None:
    """Run a command that installs something."""
    done = subprocess.run([UV, *command], capture_output=True, text=True, check=False)
    if done.returncode and any(sign in done.stderr.lower() for sign in NO_NETWORK):
        unavailable("needs a package index")
    assert done.returncode == 0, done.stderr


def boxed(environment: Path, folder: Path, *, path: str = "") -> Box:
    """Runs programs of an environment as nobody, with that folder alone to write to."""
    python = (environment / "bin" / "python").resolve().parents[1]
    seen = [path for path in (python, environment, folder) if any(path.is_relative_to(at) for at in HOMES)]
    homes = [argument for home in HOMES for argument in ("--tmpfs", home)]
    binds = [argument for place in seen for argument in ("--ro-bind", str(place), str(place))]

    def run(*command: str, cwd: Path = folder) -> subprocess.CompletedProcess[str]:
        box = [
            "bwrap",
            "--unshare-all",
            "--uid",
            NOBODY,
            "--gid",
            NOBODY,
            "--ro-bind",
            "/",
            "/",
            *homes,
            *binds,
        ]
        box += ["--bind", str(folder), str(folder), "--proc", "/proc", "--dev", "/dev", "--chdir", str(cwd)]
        box += [
            "--clearenv",
            "--setenv",
            "PATH",
            f"{environment / 'bin'}{path}",
            "--setenv",
            "HOME",
            "/nonexistent",
        ]
        return subprocess.run([*box, *command], capture_output=True, text=True, stdin=subprocess.DEVNULL)

    return run


@pytest.fixture(scope="module", params=["3.11", "3.12", "3.13"])
def environment(
    request: pytest.FixtureRequest, wheel: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """An environment of a Python with the wheel and pytest."""
    target = tmp_path_factory.mktemp("environment") / "venv"
    own = sorted(PYENV.glob(f"{request.param}.*/bin/python"))
    installed("venv", "-q", "--python", own[-1] if own else request.param, target)
    python = target / "bin" / "python"
    installed("pip", "install", "-q", "--compile-bytecode", "--python", python, wheel, "pytest")
    return target


def test_a_project_is_made_checked_and_asked_as_nobody_without_network(
    environment: Path, tmp_path: Path
) -> None:
    box, project = boxed(environment, tmp_path), tmp_path / "shop"
    made = box("mesh", "init", "shop", "--agent", "shop-clerk")
    assert made.returncode == 0, made
    checked = box("mesh", "check", cwd=project)
    assert "No problems" in checked.stdout, checked
    answer = box("mesh", "ask", "shop-clerk", "How do I run the tests?", cwd=project)
    assert answer.returncode == 0 and "(README.md:" in answer.stdout, answer
    tested = box("pytest", "-q", "-p", "no:cacheprovider", cwd=project)
    assert "1 passed" in tested.stdout, tested


def test_the_demo_of_a_tool_that_uv_installs_runs_to_its_end(wheel: Path, tmp_path: Path) -> None:
    tools = {"UV_TOOL_DIR": str(tmp_path / "tools"), "UV_TOOL_BIN_DIR": str(tmp_path / "bin")}
    command = [UV, "tool", "run", "--from", str(wheel), "--python", sys.executable, "mesh", "demo"]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env=os.environ | tools,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    if done.returncode and any(sign in done.stderr.lower() for sign in NO_NETWORK):
        unavailable("needs a package index")
    assert done.returncode == 0 and "Your turn, in a repository of yours" in done.stdout, done


def test_the_demo_runs_as_nobody_without_network_and_says_where_git_is_missing(
    environment: Path, tmp_path: Path
) -> None:
    git = shutil.which("git")
    assert git is not None
    without = boxed(environment, tmp_path)("mesh", "demo")
    assert without.returncode == 1 and "install git" in without.stderr, without
    done = boxed(environment, tmp_path, path=f":{Path(git).parent}")("mesh", "demo")
    assert done.returncode == 0 and "Your turn, in a repository of yours" in done.stdout, done
