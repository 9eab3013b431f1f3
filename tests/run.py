"""Run lint, types and every tier of tests that this machine can run, then say how each ended.

    python tests/run.py [--require all|TIER,...] [PART ...]

A part that cannot run, or a test that is skipped, is named with its reason; under `--require` (or
`REQUIRE_TIERS`) it is a failure. The exit status is 0 if nothing failed.
"""

import argparse
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = Path(sysconfig.get_path("scripts"))
CHECKS: dict[str, list[list[str]]] = {
    "lint": [["ruff", "check"], ["ruff", "format", "--check"]],
    "imports": [["lint-imports", "--no-logo"]],
    "types": [["pyrefly", "check", "--summary=none"]],
}
MAX_PROCESSES = 8
DAPR = ("mosquitto", "redis-server", "daprd")


@dataclass(frozen=True)
class Tier:
    """A folder of tests, or some files of it, and what it is run with."""

    folder: str
    files: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    processes_per_core: int = 2
    """Where tests wait for other programs or for time to pass, more processes than cores use the time."""


TIERS = {
    "unit": Tier("unit", processes_per_core=1),
    "contract": Tier("contract"),
    "integration": Tier("integration", processes_per_core=3),
    "acceptance": Tier("acceptance"),
    "acceptance-dapr": Tier(
        "acceptance",
        ("test_lifecycle.py", "test_crash.py"),
        {"ACCEPTANCE_UP": "mesh up --host dapr"},
        needs=DAPR,
    ),
}
SOAKED = {
    "faults": Tier(
        "integration",
        ("test_embedded_faults.py", "test_dapr_faults.py"),
        {"FAULT_TASKS": "1000", "DAPR_FAULT_TASKS": "120", "DAPR_FREEZES": "20"},
    ),
    "benchmarks": Tier(
        "integration",
        ("test_benchmark_rows.py", "test_benchmark_rows_dapr.py"),
        {"BENCHMARK_ROWS": "all"},
        needs=DAPR,
    ),
}
"""Parts of tiers that `make soak` runs by themselves, larger."""
PASSED, FAILED, NOT_RUN = "passed", "failed", "not run"


@dataclass
class Result:
    """How one part ended; `skipped` holds each reason with the number of tests it kept from running."""

    part: str
    state: str
    seconds: float = 0.0
    note: str = ""
    skipped: Counter[str] = field(default_factory=Counter)

    def is_complete(self) -> bool:
        return self.state == PASSED and not self.skipped


def run_check(part: str) -> Result:
    started = time.monotonic()
    statuses = [execute([str(SCRIPTS / program), *options]) for program, *options in CHECKS[part]]
    return Result(part, FAILED if any(statuses) else PASSED, time.monotonic() - started)


def run_tier(part: str, tests: Path) -> Result:
    tier = {**TIERS, **SOAKED}[part]
    folder = tests / tier.folder
    if not any(folder.rglob("test_*.py")):
        return Result(part, NOT_RUN, note=f"{folder.name}/ holds no tests")
    if missing := [program for program in tier.needs if not is_there(program)]:
        return Result(part, NOT_RUN, note=f"needs {', '.join(missing)}")
    paths = [str(folder / name) for name in tier.files] or [str(folder)]
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch, "report.xml")
        options = [
            "-q",
            "-c",
            str(ROOT / "pyproject.toml"),
            f"--rootdir={tests.parent}",
            f"--junitxml={report}",
            "--durations=40",
            "--durations-min=1",
            f"--numprocesses={min(cores() * tier.processes_per_core, MAX_PROCESSES)}",
            *("--dist=loadfile", "--no-loadscope-reorder"),
        ]
        status = execute([sys.executable, "-m", "pytest", *options, *paths], tier.environment)
        return read_report(part, status, time.monotonic() - started, report)


def read_report(part: str, status: int, seconds: float, report: Path) -> Result:
    """Turn pytest's exit status and its JUnit report into a result."""
    if not report.exists():
        return Result(part, FAILED, seconds, f"pytest ended with {status}")
    suite = ElementTree.parse(report).getroot()
    cases = list(suite.iter("testcase"))
    skipped = Counter(
        str(skip.get("message")) for skip in suite.iter("skipped") if skip.get("type") == "pytest.skip"
    )
    bad = sum(case.find("failure") is not None or case.find("error") is not None for case in cases)
    good = len(cases) - bad - skipped.total()
    if not status and not good:
        return Result(part, NOT_RUN, seconds, "every test was skipped", skipped)
    note = f"{good} passed" + (f", {bad} failed" if bad else "")
    return Result(part, FAILED if status else PASSED, seconds, note, skipped)


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def is_there(program: str) -> bool:
    """Whether a program can be run: on PATH, or built by `make dapr`."""
    if program != "daprd" or shutil.which(program):
        return shutil.which(program) is not None
    where = subprocess.run(
        [sys.executable, ROOT / "tools/dapr/build", "--where"], capture_output=True, check=False
    )
    return where.returncode == 0


def execute(command: Sequence[str], environment: Mapping[str, str] = MappingProxyType({})) -> int:
    settings = "".join(f"{name}={value!r} " for name, value in environment.items())
    print(f"$ {settings}{Path(command[0]).name} {' '.join(command[1:])}", flush=True)
    return subprocess.run(command, cwd=ROOT, check=False, env={**os.environ, **environment}).returncode


def compile_once() -> None:
    """Keep compiled modules, whatever the environment says: tests start hundreds of programs."""
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.dont_write_bytecode = False


def summarise(results: Sequence[Result], required: set[str]) -> list[Result]:
    """Print the table and return the results that count as failures."""
    print(f"\n{'part':<13}{'result':<9}{'seconds':>8}")
    for result in results:
        print(f"{result.part:<13}{result.state:<9}{result.seconds:>8.1f}  {result.note}".rstrip())
        for reason, count in result.skipped.items():
            print(f"{'':<13}not run: {count} x {reason}")
    failures = [
        result
        for result in results
        if result.state == FAILED or (result.part in required and not result.is_complete())
    ]
    print("FAILED: " + ", ".join(result.part for result in failures) if failures else "passed")
    return failures


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parts = [*CHECKS, *TIERS]
    parser = argparse.ArgumentParser(description="Run lint, types and the tests, with a summary at the end.")
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(parts)} (default: all)")
    parser.add_argument(
        "--require",
        default=os.environ.get("REQUIRE_TIERS", ""),
        help="'all' or parts, by comma, of which nothing may be left out",
    )
    parser.add_argument("--tests", type=Path, default=ROOT / "tests", help="the folder of the tiers")
    options = parser.parse_args(arguments)
    options.parts = options.parts or parts
    options.require = set(parts if options.require == "all" else filter(None, options.require.split(",")))
    if unknown := {*options.parts, *options.require} - {*parts, *SOAKED}:
        known = ", ".join([*parts, *SOAKED])
        parser.error(f"no such part: {', '.join(sorted(unknown))}; the parts are {known}")
    return options


def main(arguments: Sequence[str]) -> int:
    options = parse(arguments)
    compile_once()
    if options.require >= set(TIERS):
        os.environ["REQUIRE_TIERS"] = "all"
    results = [
        run_check(part) if part in CHECKS else run_tier(part, options.tests.resolve())
        for part in options.parts
    ]
    return 1 if summarise(results, options.require) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
