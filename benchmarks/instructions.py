"""Counts the instructions that a task costs the event loop and the writer of an embedded mesh.

python -m benchmarks.instructions            # fails if the loop costs 2 % more than the stored figure
python -m benchmarks.instructions --store    # stores today's figures where they are lower
python -m benchmarks.instructions --raise    # stores higher ones too: in a commit that says why

On a quiet machine times differ by tens of percent from run to run, instructions by one or two percent, since
commits are grouped as they come; other programs beside it cost up to four percent. So a figure over the limit
is counted again, four times at most. A figure is the difference of two runs under valgrind, and each build of
Python has its own. They run one after the other: side by side, figures differ by two percent.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections import Counter
from pathlib import Path

import uvloop

from benchmarks.sides import ROOT, clean_environment
from benchmarks.stand import build_stand
from meshwright.mesh import app

FIGURES = ROOT / "benchmarks" / "instructions.json"
FEW, MANY = 192, 704  # tasks of the two runs
IN_FLIGHT = 128
MAX_GROWTH = 0.02
_RUN = (sys.executable, "-m", "benchmarks.instructions", "--tasks")
MAX_REPEATS = 4
NOT_RUN = 75  # `tests/run.py` reports the last line as the reason


async def run_tasks(count: int) -> None:
    remaining = iter(range(count))

    with tempfile.TemporaryDirectory(prefix="mesh-instructions-") as folder:
        stand = build_stand(folder)

        async def client() -> None:
            for _ in remaining:
                await stand.task()

        async with stand.running():
            await asyncio.gather(*(client() for _ in range(IN_FLIGHT)))


def leave_out(part: str) -> None:
    """Build meshes of this process without a built-in component."""
    others = [other for other in app.ours() if other.name != part]
    app.ours = lambda: others


def start(count: int, logs: Path, without: str = "") -> subprocess.Popen[bytes]:
    """Run so many tasks under cachegrind, which writes a log for each process."""
    command = ["valgrind", "--tool=cachegrind", "--cache-sim=no", "--trace-children=yes"]
    command += ["--cachegrind-out-file=/dev/null", f"--log-file={logs}/{count}.%p"]
    return subprocess.Popen(
        [*command, *_RUN, str(count), without], cwd=ROOT, env=clean_environment() | {"PYTHONHASHSEED": "0"}
    )


def counted(count: int, logs: Path) -> Counter[str]:
    """The instructions of each process of a run."""
    instructions = Counter[str]()
    for log in logs.glob(f"{count}.*"):
        text = log.read_text()
        found = re.search(r"I\s*refs:\s*([\d,]+)", text)
        process = next((name for key, name in PROCESSES.items() if key in text), None)
        if found and process:
            instructions[process] += int(found[1].replace(",", ""))
    return instructions


PROCESSES = {"meshwright.engine.sql.writer": "writer", "benchmarks.instructions": "loop"}
"""By what their commands contain."""


def measure(few: int = FEW, many: int = MANY, without: str = "") -> dict[str, int]:
    """Instructions a task, for the loop and for the writer; `without` names a part that is left out."""
    subprocess.run([*_RUN, "1", without], cwd=ROOT, env=clean_environment(), check=True)  # compiles modules
    with tempfile.TemporaryDirectory(prefix="mesh-instructions-") as folder:
        if any(start(count, Path(folder), without).wait() for count in (few, many)):  # not side by side
            sys.exit("The tasks failed under valgrind: see above")
        less, more = counted(few, Path(folder)), counted(many, Path(folder))
    return {name: (more[name] - less[name]) // (many - few) for name in PROCESSES.values()}


def build_of_python() -> str:
    """The version of Python, with a hash of its compiler and options."""
    built = f"{platform.python_compiler()} {sysconfig.get_config_var('CONFIG_ARGS')} {platform.machine()}"
    return f"{platform.python_version()}-{hashlib.sha256(built.encode()).hexdigest()[:8]}"


def main(arguments: list[str]) -> int:
    if arguments[:1] == ["--tasks"]:
        leave_out(arguments[2])
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(run_tasks(int(arguments[1])))
        return 0
    stored: dict[str, dict[str, int]] = json.loads(FIGURES.read_text()) if FIGURES.exists() else {}
    build = build_of_python()
    if not shutil.which("valgrind"):
        print("needs valgrind on PATH")
        return NOT_RUN
    stores = arguments in (["--store"], ["--raise"])
    if not stores and build not in stored:
        print(f"no figure is stored for Python {build}: python -m benchmarks.instructions --store")
        return NOT_RUN
    figures = measure()
    print(", ".join(f"{name} {count:,} instructions a task" for name, count in figures.items()))
    if stores:
        if arguments == ["--store"]:
            figures = {
                name: min(count, stored.get(build, {}).get(name, count)) for name, count in figures.items()
            }
        FIGURES.write_text(json.dumps(stored | {build: figures}, indent=2) + "\n")
        return 0
    loop, before = figures["loop"], stored[build]["loop"]
    for _ in range(MAX_REPEATS):
        loop = min(loop, measure()["loop"]) if loop / before - 1 > MAX_GROWTH else loop
    growth = loop / before - 1
    print(f"The loop costs {growth:+.1%} against the stored {before:,}; the limit is {MAX_GROWTH:+.0%}")
    if growth > MAX_GROWTH:
        print("Raise the figure if the change is worth it: python -m benchmarks.instructions --raise")
    return 1 if growth > MAX_GROWTH else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
