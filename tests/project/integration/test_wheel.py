"""The wheel holds the package, and the project folder that `mesh` falls back to."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from importlib import import_module
from importlib.metadata import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


CONSUMER = """
from typing import assert_type

from meshwright import Agent, Capability, Outcome
from meshwright.testing import MeshUnderTest


class Greeter(Agent):
    agent_id = "greeter"
    capabilities = (Capability("greeting"),)


async def greet(mesh: MeshUnderTest) -> str:
    outcome = await mesh.ask("greeter", "Hello")
    assert_type(outcome, Outcome)
    return outcome.task_id
"""


SHIPPED = """
from pathlib import Path

import meshwright
from meshwright.agents.shipped import (
    ApiCoder, ArchitectAgent, ArgocdDeployer, CostTracker, HomelabMonitor, InfraManager, KubectlDeployer,
    ProjectManager, QaTester, ResearcherAgent, SimpleAgent, UiAgent,
)


class OwnCoder(ApiCoder):
    agent_id = "own-coder"


found = [value for name, value in globals().items() if name[0].isupper() and value is not Path]
assert len(found) == 13 and all(issubclass(agent, meshwright.Agent) for agent in found)
assert all(agent.prompt_text for agent in found)
print(Path(meshwright.__file__).parents[1])
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel that is built from this tree."""
    target = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(target)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (built,) = target.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def names(wheel: Path) -> set[str]:
    """The paths in the wheel."""
    return set(zipfile.ZipFile(wheel).namelist())


def test_a_type_checker_takes_the_types_of_the_installed_wheel(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    assert (site / "meshwright/py.typed").is_file()  # without it, the types of the package are not read
    consumer = tmp_path / "consumer.py"
    consumer.write_text(CONSUMER)
    pyrefly = Path(sys.executable).with_name("pyrefly")
    command = [pyrefly, "check", consumer, "--site-package-path", site, "--summary=none"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_agent_is_a_class_of_the_installed_wheel(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    environment = {**os.environ, "PYTHONPATH": str(site)}
    command = [sys.executable, "-c", SHIPPED]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, str(site)), done.stderr


def test_a_project_that_init_makes_passes_its_own_checks_and_answers(wheel: Path, tmp_path: Path) -> None:
    site, folder = tmp_path / "site", tmp_path / "shop"
    zipfile.ZipFile(wheel).extractall(site)
    environment = {**os.environ, "PYTHONPATH": str(site), "XDG_CONFIG_HOME": str(tmp_path / "config")}

    def run(*command: str | Path, cwd: Path = folder) -> str:
        words = [sys.executable, "-m", *map(str, command)]
        done = subprocess.run(words, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run("meshwright", "init", "shop", "--agent", "shop-clerk", cwd=tmp_path)
    assert "1 passed" in run("pytest", "-q", "-p", "no:cacheprovider", "-p", "no:schemathesis")
    assert "No problems" in run("meshwright", "check")
    asked = run("meshwright", "ask", "shop-clerk", "How do I run the tests?")
    assert "(README.md:" in asked and "pytest" in asked
    run("ruff", "check", "--isolated", "--select", "E4,E7,E9,F,I,B,UP,RUF,SIM,ANN", ".")
    run("ruff", "format", "--isolated", "--check", ".")
    run("pyrefly", "check", ".", "--site-package-path", site, "--summary=none", "--preset", "strict")
    lines = (folder / "README.md").read_text().splitlines()
    assert len([line for line in lines if line]) <= 10


def test_another_checkout_at_another_time_gives_the_same_bytes(wheel: Path, tmp_path: Path) -> None:
    copy = tmp_path / "elsewhere"
    leave_out = shutil.ignore_patterns("__pycache__")
    for name in ("runtime", "actors", "prompts", "components"):
        shutil.copytree(ROOT / name, copy / name, copy_function=shutil.copy, ignore=leave_out)
    for name in (
        "pyproject.toml",
        "hatch_build.py",
        "README.md",
        "LICENSE",
        "litellm_config.yaml",
        ".gitignore",
    ):
        shutil.copy(ROOT / name, copy)
    for path in copy.rglob("*.py"):
        os.utime(path, (1_000_000_000, 1_000_000_000))
    (copy / "actors" / "__pycache__").mkdir()
    (copy / "actors" / "__pycache__" / "digest.cpython-311.pyc").write_bytes(b"stale")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=copy, check=True, capture_output=True, env=os.environ | {"TZ": "Asia/Tokyo"})
    assert (tmp_path / wheel.name).read_bytes() == wheel.read_bytes()


def test_the_list_beside_the_wheel_has_all_that_it_rests_on(wheel: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copy(wheel, tmp_path))
    texts = []
    for _ in range(2):
        command = [sys.executable, str(ROOT / "tools" / "sbom.py"), str(copy)]
        written = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
        texts.append(Path(written).read_text())
    assert texts[0] == texts[1]
    bill = json.loads(texts[0])
    ours = bill["metadata"]["component"]
    assert ours["hashes"][0]["content"] == hashlib.sha256(wheel.read_bytes()).hexdigest()
    scopes = {found["name"]: found["scope"] for found in bill["components"]}
    assert (scopes["msgspec"], scopes["litellm"]) == ("required", "optional")
    assert len(scopes) == len(bill["components"])  # one release of each
    rests_on = {entry["ref"]: entry["dependsOn"] for entry in bill["dependencies"]}
    assert rests_on.keys() == {ours["bom-ref"]} | {found["bom-ref"] for found in bill["components"]}
    known = metadata("meshwright").get_all("Requires-Dist", [])
    always = {re.split(r"[^A-Za-z0-9._-]", name)[0] for name in known if "extra ==" not in name}
    direct = {ref.removeprefix("pkg:pypi/").partition("@")[0] for ref in rests_on[ours["bom-ref"]]}
    assert always <= direct


def test_python_m_meshwright_is_mesh() -> None:
    command = [sys.executable, "-m", "meshwright", "--version"]
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout.startswith("mesh ")


@pytest.mark.parametrize("module", ["meshwright", "meshwright.testing"])
def test_dir_lists_the_public_names_and_no_others(module: str) -> None:
    package = import_module(module)
    assert dir(package) == sorted(package.__all__)
    assert all(hasattr(package, name) for name in dir(package))


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


def test_the_pages_of_the_api_are_in_the_wheel(names: set[str]) -> None:
    pages = {path.name for path in (ROOT / "runtime/meshwright/edges/http/docs").iterdir() if path.is_file()}
    assert pages >= {"index.html", "docs.css", "docs.js"}
    assert {f"meshwright/edges/http/docs/{name}" for name in pages} <= names
