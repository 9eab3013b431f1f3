"""`make crash`: agents of frameworks are killed in the middle of a refund, alone and in a mesh.

The scenarios are of the kinds that CTRLRun's probe and AgentPostmortem have, and are written again: neither
can be installed as a package. A trial that does not end has bounds of time, calls and questions. Progress
goes to stderr, a Markdown table to stdout. A run that was cut off goes on with the trials that are missing,
unless `--again` is passed or the code has another commit.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from benchmarks import dapr_ground
from benchmarks.crash.sides import ALONE, SCENARIOS, Alone, InMesh, MakeSide, OnDapr, Scenario, try_out
from tests.support.postgres import Cluster, postgres_programs, running_cluster
from tests.support.running_mesh import ROOT

SIDES: dict[str, tuple[MakeSide, dict[str, str]]] = {
    "alone": (Alone, {}),
    "in the mesh": (InMesh, {"CRASH_CHECKS": "0"}),
    "with checks": (InMesh, {"CRASH_CHECKS": "1"}),
    "on PostgreSQL with checks": (InMesh, {"CRASH_CHECKS": "1"}),
    "on Dapr with checks": (OnDapr, {"CRASH_CHECKS": "1"}),
}
_NOT_RUN = "not run"


class Cell(NamedTuple):
    """A place in the table."""

    scenario: str
    framework: str
    side: str


class Results:
    """The cells that are measured, in a file that outlives a run."""

    def __init__(self, path: Path) -> None:
        self._path = path
        lines = path.read_text().splitlines() if path.exists() else []
        self.texts = {Cell(*json.loads(line)[:3]): str(json.loads(line)[3]) for line in lines}

    def write(self, cell: Cell, text: str) -> None:
        """Keep the text of a cell."""
        self.texts[cell] = text
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a") as file:
            file.write(json.dumps([*cell, text]) + "\n")


def results_path() -> Path:
    """The file of this commit in the user's cache."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    command = ["git", "rev-parse", "--short", "HEAD"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return cache / "meshwright" / "crash" / f"{done.stdout.strip() or 'no-commit'}.jsonl"


async def measure(cells: list[Cell], results: Results, jobs: int, cluster: Cluster | None) -> None:
    """Measure the cells that are missing, some at a time. One that cannot run says why, and is not kept."""
    missing = [cell for cell in cells if cell not in results.texts]
    print(f"{len(missing)} trials, {len(cells) - len(missing)} done before", file=sys.stderr)
    free, started, ended = asyncio.Semaphore(jobs), time.monotonic(), 0

    async def measure_one(cell: Cell) -> None:
        nonlocal ended
        async with free:
            try:
                text = await _try_out(cell, cluster)
            except Exception as error:  # noqa: BLE001 - the others are measured; the next run tries it again
                text = f"{_NOT_RUN}: {type(error).__name__} {error}"
        if not text.startswith(_NOT_RUN):
            results.write(cell, text)
        ended += 1
        seconds = time.monotonic() - started
        place = f"{ended}/{len(missing)}, {seconds:.0f} s"
        print(f"[{place}] {cell.scenario}, {cell.framework} {cell.side}: {text}", file=sys.stderr)

    await asyncio.gather(*map(measure_one, missing))


async def _try_out(cell: Cell, cluster: Cluster | None) -> str:
    make, environment = SIDES[cell.side]
    if "PostgreSQL" in cell.side:
        if cluster is None:
            return f"{_NOT_RUN}: PostgreSQL is not installed"
        environment = environment | {"MESH_DATABASE": str(await asyncio.to_thread(cluster.new_schema))}
    if make is OnDapr and (reason := dapr_ground.missing()):
        return f"{_NOT_RUN}: {reason}"
    [scenario] = [scenario for scenario in SCENARIOS if scenario.name == cell.scenario]
    with tempfile.TemporaryDirectory(prefix="crash-", ignore_cleanup_errors=True) as folder:
        return await _text_of(make, cell.framework, scenario, Path(folder), environment)


async def _text_of(
    make: MakeSide, framework: str, scenario: Scenario, folder: Path, environment: dict[str, str]
) -> str:
    trial = await try_out(make, framework, scenario, folder, environment)
    errors = folder / "errors"
    if trial.fault and errors.exists():
        print(errors.read_text()[-2000:], file=sys.stderr)
    return trial.text


def table(cells: list[Cell], results: Results) -> list[str]:
    """The lines of the table: a row for each scenario and side, a column for each framework."""
    frameworks = list(dict.fromkeys(cell.framework for cell in cells))
    lines = [f"| killed | side | {' | '.join(frameworks)} |", f"|{'---|' * (len(frameworks) + 2)}"]
    for scenario, side in dict.fromkeys((cell.scenario, cell.side) for cell in cells):
        row = [Cell(scenario, framework, side) for framework in frameworks]
        texts = [results.texts.get(cell, _NOT_RUN) for cell in row]
        lines.append(f"| {scenario} | {side} | {' | '.join(texts)} |")
    return lines


def main() -> None:
    """Run what the arguments name, by default everything."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.crash", description=__doc__.splitlines()[0])
    parser.add_argument("--framework", action="append", choices=ALONE)
    parser.add_argument("--side", action="append", choices=SIDES)
    parser.add_argument("--scenario", action="append", choices=[scenario.name for scenario in SCENARIOS])
    parser.add_argument("--jobs", type=int, default=2, help="trials at a time")
    parser.add_argument("--again", action="store_true", help="measure what is measured already")
    arguments = parser.parse_args()
    scenarios = arguments.scenario or [scenario.name for scenario in SCENARIOS]
    frameworks, sides = arguments.framework or [*ALONE], arguments.side or [*SIDES]
    cells = [
        Cell(scenario, framework, side)
        for scenario in scenarios
        for side in sides
        for framework in frameworks
    ]
    path = results_path()
    if arguments.again:
        path.unlink(missing_ok=True)
    results = Results(path)
    with ExitStack() as stack:
        needs_postgres = any("PostgreSQL" in side for side in sides) and postgres_programs() is not None
        cluster = stack.enter_context(running_cluster()) if needs_postgres else None
        asyncio.run(measure(cells, results, arguments.jobs, cluster))
    print("\n".join(table(cells, results)))


if __name__ == "__main__":
    main()
