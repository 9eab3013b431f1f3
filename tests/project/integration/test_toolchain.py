"""The locks, the test runner and the cheapness of an import, each by what a user sees of it."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.run import QUICK, parse

ROOT = Path(__file__).resolve().parents[3]
LOCKS = ["default", "all", "image", "build", "dev"]
PIN = re.compile(r"^([A-Za-z0-9._-]+)==(\S+)", re.MULTILINE)
HEAVY = {"pydantic", "fastapi", "aiohttp", "litellm", "opentelemetry", "rich"}


def lock(name: str) -> str:
    return (ROOT / "requirements" / f"{name}.txt").read_text()


def declared(group: str) -> set[str]:
    """The names that pyproject.toml asks for in the default set or in an extra."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    requirements = project["dependencies"] if group == "default" else project["optional-dependencies"][group]
    return {re.split(r"[^A-Za-z0-9._-]", requirement)[0] for requirement in requirements}


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_names_no_host(name: str) -> None:
    assert "://" not in lock(name)


@pytest.mark.parametrize("name", LOCKS)
def test_every_pin_of_a_lock_has_a_hash(name: str) -> None:
    blocks = re.split(r"\n(?=[A-Za-z0-9])", lock(name))
    assert [block.split()[0] for block in blocks if "--hash=sha256:" not in block] == []


def test_the_locks_agree_on_every_version() -> None:
    pins = dict(PIN.findall(lock("dev")))
    others = [pin for name in LOCKS for pin in PIN.findall(lock(name))]
    assert [(name, version) for name, version in others if pins[name] != version] == []


def test_the_locks_hold_what_the_project_declares() -> None:
    assert declared("default") <= dict(PIN.findall(lock("default"))).keys()
    assert declared("litellm") | declared("otlp") <= dict(PIN.findall(lock("all"))).keys()


def test_the_default_install_is_small() -> None:
    names = dict(PIN.findall(lock("default"))).keys()
    assert len(names) <= 45
    assert names.isdisjoint({"litellm", "openai", "grpcio", "dapr", "mcp", "httpx", "sqlalchemy"})


def test_litellm_stays_at_the_measured_release() -> None:
    assert dict(PIN.findall(lock("all")))["litellm"] == "1.88.6"


def test_the_command_line_starts_without_a_heavy_library() -> None:
    code = "import sys, meshwright, meshwright.cli; print(*sorted(m for m in sys.modules if '.' not in m))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert HEAVY.isdisjoint(done.stdout.split())


SAMPLE = """
import hypothesis, hypothesis.strategies, os, pytest, warnings

NUMBERS = []

@pytest.mark.needs("no-such-broker")
def test_with_a_broker(): pass

async def test_async_just_runs(anyio_backend_name): assert anyio_backend_name == "asyncio"

def test_no_key_of_the_user_is_seen(): assert "OPENAI_API_KEY" not in os.environ

@hypothesis.given(hypothesis.strategies.integers())
def test_property(number): NUMBERS.append(number)

def test_warns(): warnings.warn("old", DeprecationWarning)

def test_chance(rng, seed): assert rng.random() < 0, f"drawn {rng.random()}+{sum(NUMBERS)} by {seed}"
"""


def run(tests: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "tests/run.py"), "--tests", str(tests), *arguments]
    clean = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("MESH_", "PYTEST_", "REQUIRE_"))
    }
    return subprocess.run(command, capture_output=True, text=True, check=False, env=clean | environment)


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tests folder with this project's conftest, a unit tier of all kinds and an empty contract tier."""
    tests = tmp_path_factory.mktemp("tests")
    shutil.copy(ROOT / "tests/conftest.py", tests)
    (tests / "contract").mkdir()
    (tests / "unit").mkdir()
    (tests / "unit/test_sample.py").write_text(SAMPLE)
    return tests


@pytest.fixture(scope="module")
def ended(sample: Path) -> subprocess.CompletedProcess[str]:
    return run(sample, "unit", "contract", MESH_TEST_SEED="7", OPENAI_API_KEY="secret")


@pytest.fixture(scope="module")
def ended_as_required(sample: Path) -> subprocess.CompletedProcess[str]:
    return run(sample, "unit", "contract", MESH_TEST_SEED="7", REQUIRE_TIERS="all")


def test_the_runner_counts_each_tier_and_fails_with_it(ended: subprocess.CompletedProcess[str]) -> None:
    assert ended.returncode == 1
    assert re.search(r"unit +failed .*3 passed, 2 failed", ended.stdout)
    assert "FAILED: unit\n" in ended.stdout


def test_a_warning_is_a_failure(ended: subprocess.CompletedProcess[str]) -> None:
    assert "DeprecationWarning: old" in ended.stdout


def test_a_tier_without_tests_is_named_and_fails_only_where_required(
    ended: subprocess.CompletedProcess[str], ended_as_required: subprocess.CompletedProcess[str]
) -> None:
    assert re.search(r"contract +not run .*contract/ holds no tests", ended.stdout)
    assert "FAILED: unit, contract\n" in ended_as_required.stdout


def test_what_the_machine_lacks_is_said_at_the_end_and_fails_only_where_required(
    ended: subprocess.CompletedProcess[str], ended_as_required: subprocess.CompletedProcess[str]
) -> None:
    assert "not run: 1 x needs no-such-broker on PATH" in ended.stdout
    assert "needs no-such-broker on PATH, and every tier is required" in ended_as_required.stdout


def test_a_seed_repeats_the_chances_and_is_named_after_a_failure(
    ended: subprocess.CompletedProcess[str], ended_as_required: subprocess.CompletedProcess[str]
) -> None:
    assert "MESH_TEST_SEED=7" in ended.stdout
    drawn = re.search(r"drawn \S+ by 7", ended.stdout)
    assert drawn and drawn[0] in ended_as_required.stdout


UNSTEADY = """
def test_not_beside_others(pytestconfig): assert not pytestconfig.option.forks, "beside others"
"""


def test_a_test_that_fails_beside_others_runs_once_more_and_is_named(sample: Path, tmp_path: Path) -> None:
    tests = tmp_path / "project"
    (tests / "unit").mkdir(parents=True)
    shutil.copy(sample / "conftest.py", tests)
    (tests / "unit/test_unsteady.py").write_text(UNSTEADY)
    done = run(tests, "unit")
    assert re.search(
        r"unit +passed .* 0 passed, 1 unsteady, passed alone: test_not_beside_others", done.stdout
    )
    assert (done.returncode, "AssertionError: beside others" in done.stdout) == (0, True)


def test_parts_that_take_long_are_left_out_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REQUIRE_TIERS", raising=False)
    options = parse([])
    assert options.parts == [*QUICK] and {"integration", "acceptance"} <= {*options.left_out}
    assert not parse(["all"]).left_out and not parse(["--require", "all"]).left_out


def test_by_default_the_near_tests_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REQUIRE_TIERS", raising=False)
    assert "near" in parse([]).parts and "near" not in parse(["all"]).parts


def test_an_unknown_part_is_refused_with_the_known_ones(sample: Path) -> None:
    done = run(sample, "units")
    assert done.returncode == 2
    assert "no such part: units; the parts are lint, imports, types, instructions, near, unit" in done.stderr
