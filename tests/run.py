"""Runs lint, types, gates and every tier of tests that this machine can run, and reports how each ended.

    python tests/run.py [--require all|TIER,...] [PART ...]
    python tests/run.py --of ledger       # the tests of a part of the runtime that need no service
    python tests/run.py --since main      # those of what changed since a revision

The tiers share one pytest session, and the checks run beside it. Without a PART, the parts that take long
are left out; `all` runs them too. A part that cannot run, or a test that is skipped, is listed with its
reason; under `--require` (or `REQUIRE_TIERS`) nothing is left out, and such a part is a failure. The exit
status is 0 if nothing failed.
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
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = Path(sysconfig.get_path("scripts"))
PYTHON = sys.executable
CHECKS: dict[str, list[list[str]]] = {
    "lint": [[f"{SCRIPTS}/ruff", "check"], [f"{SCRIPTS}/ruff", "format", "--check"]],
    "imports": [[f"{SCRIPTS}/lint-imports", "--no-logo"]],
    "types": [[f"{SCRIPTS}/pyrefly", "check", "--summary=none"]],
    "instructions": [[PYTHON, "-m", "benchmarks.instructions"]],
}
ALONE = ("instructions",)
"""Beside other work its figure would be some percent higher: commits are grouped by how fast they come."""
NO_FIGURE = 75
"""The status of a check that this machine cannot make; its last line says why."""
QUICK = ("lint", "imports", "types", "near")
"""The parts that run by default: minutes, and useful without any service."""
MAX_PROCESSES = 8
"""At first: while cores are idle, `tests/forks.py` starts up to twice as many."""
MAX_UNSTEADY = 3
"""So many tests that fail beside others run once more, by themselves: what passes then is named."""
CPU = "cpu"
"""The property of a test that has its processor seconds. They are printed and not held: in two runs of
the same unit tests on one machine they differed by 22 %, in units of a loop timed between by 26 %."""
SOAKING = bool(os.environ.get("SOAK"))
"""Whether tests with the mark `soak` run, chance is tried with more seeds, and kills in every combination."""
DAPR = ("mosquitto", "redis-server", "daprd")


@dataclass(frozen=True)
class Tier:
    """Folders of tests by name, or some of their files, and what they are run with."""

    folders: tuple[str, ...]
    files: tuple[str, ...] = ()
    chosen: tuple[Path, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    processes_per_core: int = 2
    """More processes than cores use the time that tests wait for other programs."""

    def paths(self, tests: Path) -> list[Path]:
        if self.chosen:
            return sorted(self.chosen)
        folders = [path for name in self.folders for path in sorted(tests.rglob(name)) if path.is_dir()]
        paths = [folder / name for folder in folders for name in self.files or ("",)]
        return [path for path in paths if path.is_file() or any(path.glob("test_*.py"))]


TIERS = {
    "unit": Tier(("unit",), processes_per_core=1),
    "contract": Tier(("contract",)),
    "integration": Tier(("integration",)),
    "acceptance": Tier(("acceptance",)),
}
NEAR = Tier(("unit", "contract"), options=("--near",), processes_per_core=1)
"""Quick tests that need no service: of stores those on memory and SQLite."""
SOAKED = {
    "faults": Tier(
        ("integration",),
        ("test_embedded_faults.py", "test_dapr_faults.py", "test_memory_kills.py"),
        environment={"DAPR_FAULT_TASKS": "120", "DAPR_FREEZES": "20"},
    ),
    "agents": Tier(("integration",), ("test_project_kills.py", "test_ops_kills.py", "test_ops_scenarios.py")),
    "marked": Tier(
        ("integration", "acceptance"),
        options=("-m", "soak", "--ignore-glob=*/test_soak.py"),  # which is `make kills`
    ),
    "benchmarks": Tier(("integration",), ("test_benchmark_rows.py",), needs=DAPR),
}
"""Parts of tiers that `make soak` runs by themselves, larger."""
APART = {"near": NEAR, **SOAKED}
"""Sets of tests that have a session of their own."""
PASSED, FAILED, NOT_RUN = "passed", "failed", "not run"


@dataclass
class Result:
    """How one part ended; `skipped` holds each reason with the number of tests it kept from running."""

    part: str
    state: str
    seconds: float = 0.0
    note: str = ""
    processor_seconds: float = 0.0
    skipped: Counter[str] = field(default_factory=Counter)

    def is_complete(self) -> bool:
        return self.state == PASSED and not self.skipped


def run_check(part: str) -> Result:
    """Run the programs of a check; their output appears in one piece."""
    started = time.monotonic()
    done = [
        subprocess.run(
            command, cwd=ROOT, check=False, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        for command in CHECKS[part]
    ]
    output = "".join(f"$ {' '.join(process.args)}\n{process.stdout}" for process in done)
    print(output, end="", flush=True)
    statuses = {process.returncode for process in done}
    seconds = time.monotonic() - started
    if NO_FIGURE in statuses:
        return Result(part, NOT_RUN, seconds, output.splitlines()[-1])
    return Result(part, FAILED if any(statuses) else PASSED, seconds)


def run_tiers(tiers: Mapping[str, Tier], tests: Path) -> list[Result]:
    """Run tiers in one session of pytest, so that tests that wait and tests that compute share the cores."""
    results: dict[str, Result] = {}
    for part, tier in tiers.items():
        if not tier.paths(tests):
            results[part] = Result(part, NOT_RUN, note=f"{'/ and '.join(tier.folders)}/ holds no tests")
        elif missing := [program for program in tier.needs if not is_there(program)]:
            results[part] = Result(part, NOT_RUN, note=f"needs {', '.join(missing)}")
    able = {part: tier for part, tier in tiers.items() if part not in results}
    if able:
        results |= run_session(able, tests)
    return [results[part] for part in tiers]


def run_session(tiers: Mapping[str, Tier], tests: Path) -> dict[str, Result]:
    paths = [str(path) for tier in tiers.values() for path in tier.paths(tests)]
    environment = {name: value for tier in tiers.values() for name, value in tier.environment.items()}
    processes = min(cores() * max(tier.processes_per_core for tier in tiers.values()), MAX_PROCESSES)
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch, "report.xml")
        options = [
            "-q",
            "-c",
            str(ROOT / "pyproject.toml"),
            f"--rootdir={tests.parent}",
            *(option for tier in tiers.values() for option in tier.options),
        ]
        spread = [f"--junitxml={report}", "--durations=60", "--durations-min=2", f"--forks={processes}"]
        pytest = [PYTHON, "-m", "pytest", *options]
        started = time.monotonic()
        status = execute([*pytest, *spread, *paths], environment)
        print(f"tests: {time.monotonic() - started:.0f} s in {processes} processes", flush=True)
        cases = read_report(report)
        if status == 1 and sum(map(has_failed, cases)) <= MAX_UNSTEADY:
            alone = ["--last-failed", "--last-failed-no-failures=none"]
            status = execute([*pytest, *alone, *paths], environment)
        return results_of(tiers, status, cases)


def read_report(report: Path) -> list[ElementTree.Element]:
    """The tests of a JUnit report; none where pytest has written none."""
    return list(ElementTree.parse(report).getroot().iter("testcase")) if report.exists() else []


def has_failed(case: ElementTree.Element) -> bool:
    return case.find("failure") is not None or case.find("error") is not None


def results_of(
    tiers: Mapping[str, Tier], status: int, cases: Sequence[ElementTree.Element]
) -> dict[str, Result]:
    """A result for each tier, of its tests and pytest's exit status: 0 where those that failed passed alone.

    The seconds of a tier are those of its tests, added up.
    """
    if not cases:
        return {part: Result(part, FAILED, note=f"pytest ended with {status}") for part in tiers}
    results = {
        part: result_of(part, [case for case in cases if folder_of(case) in tier.folders], status)
        for part, tier in tiers.items()
    }
    if status and not any(result.state == FAILED for result in results.values()):
        for result in results.values():
            result.state, result.note = FAILED, f"pytest ended with {status}"
    return results


def folder_of(case: ElementTree.Element) -> str:
    """The tier of a test, by its module's name, which a collection error has as its own."""
    names = f"{case.get('classname') or case.get('name')}".split(".")
    return next((name for name in reversed(names) if name in TIERS), "")


def result_of(part: str, cases: Sequence[ElementTree.Element], status: int) -> Result:
    skipped = Counter(
        str(skip.get("message"))
        for case in cases
        for skip in case.iter("skipped")
        if skip.get("type") == "pytest.skip"
    )
    failed = [str(case.get("name")) for case in cases if has_failed(case)]
    bad = len(failed)
    good = len(cases) - bad - skipped.total()
    seconds = sum(float(case.get("time", 0)) for case in cases)
    if not bad and not good:
        return Result(part, NOT_RUN, seconds, "every test was skipped", skipped=skipped)
    processor_seconds = sum(
        float(entry.get("value", 0))
        for entry in [entry for case in cases for entry in case.iter("property")]
        if entry.get("name") == CPU
    )
    note = f"{good} passed"
    if bad:
        note += f", {bad} failed" if status else f", {bad} unsteady, passed alone: {', '.join(failed)}"
    state = FAILED if bad and status else PASSED
    return Result(part, state, seconds, note, processor_seconds, skipped)


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
    print(f"\n{'part':<13}{'result':<9}{'seconds':>8}{CPU:>8}")
    for result in results:
        cpu = f"{result.processor_seconds:.1f}" if result.processor_seconds else ""
        print(f"{result.part:<13}{result.state:<9}{result.seconds:>8.1f}{cpu:>8}  {result.note}".rstrip())
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
    parts = [*CHECKS, "near", *TIERS]
    parser = argparse.ArgumentParser(description="Run checks and tests, with a summary at the end.")
    parser.add_argument(
        "parts",
        nargs="*",
        metavar="PART",
        help=f"all, or some of {', '.join(parts)} (default: {', '.join(QUICK)})",
    )
    parser.add_argument(
        "--require",
        default=os.environ.get("REQUIRE_TIERS", ""),
        help="'all' or parts, by comma, of which nothing may be left out",
    )
    parser.add_argument("--tests", type=Path, default=ROOT / "tests", help="the folder of the tiers")
    parser.add_argument(
        "--of", metavar="NAME", help="a part of the runtime, whose tests run that need no service"
    )
    parser.add_argument("--since", metavar="REVISION", help="run those of what changed since then")
    options = parser.parse_args(arguments)
    is_all = options.parts == ["all"] or (options.require and not options.parts)
    options.left_out = [] if is_all or options.parts else [part for part in parts if part not in QUICK]
    everything = [part for part in parts if part != "near"]  # the tiers hold it
    options.parts = everything if is_all else options.parts or list(QUICK)
    required = set(everything) - {*ALONE}  # which other builds of Python have no figure for
    options.require = required if options.require == "all" else set(filter(None, options.require.split(",")))
    if unknown := {*options.parts, *options.require} - {*parts, *SOAKED}:
        names = ", ".join([*parts, *SOAKED])
        parser.error(f"no such part: {', '.join(sorted(unknown))}; the parts are {names}")
    return options


def run_parts(parts: Sequence[str], tests: Path) -> Iterable[Result]:
    checks = [part for part in parts if part in CHECKS and part not in ALONE]
    with ThreadPoolExecutor(len(CHECKS)) as pool:
        checked = [pool.submit(run_check, part) for part in checks]
        tested = run_tiers({part: TIERS[part] for part in parts if part in TIERS}, tests)
        for part in parts:
            if part in APART:
                tested += run_tiers({part: APART[part]}, tests)
        yield from (check.result() for check in checked)
    yield from tested
    yield from (run_check(part) for part in parts if part in ALONE)


def run_chosen(options: argparse.Namespace) -> int:
    """Run the tests of a part of the runtime, or of a change."""
    sys.path.insert(0, str(ROOT))
    from tests.affected import choose

    tests = options.tests.resolve()
    try:
        reasons, files = choose(options.of, options.since, tests)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    print(*reasons, sep="\n", flush=True)
    if not files:
        return 0
    return (
        1
        if summarise(run_tiers({"chosen": replace(NEAR, folders=(*TIERS,), chosen=files)}, tests), set())
        else 0
    )


def main(arguments: Sequence[str]) -> int:
    options = parse(arguments)
    compile_once()
    if options.of or options.since:
        return run_chosen(options)
    if options.require >= set(TIERS):
        os.environ["REQUIRE_TIERS"] = "all"
    results = list(run_parts(options.parts, options.tests.resolve()))
    results += [Result(part, NOT_RUN, note="takes long: make test ARGS=all") for part in options.left_out]
    return 1 if summarise(results, options.require) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
