"""`python -m benchmarks`: measure, and print the table.

Progress goes to stderr, the table to stdout. The exit status is 1 where a benchmark broke; a target that was
missed is a line in the table.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from benchmarks import machine
from benchmarks.bench import Bench
from benchmarks.figures import Row
from benchmarks.table import as_markdown, as_text

BENCHMARKS = {
    "agent": "an agent's task through HTTP: beside LangGraph, DBOS, Restate, Temporal and a floor",
    "lifecycle": "a task's lifecycle in this process, 128 in flight; the event loop's longest stall",
    "single": "the same, one at a time",
    "waiting": "1,000 tasks that wait for a model",
    "http": "the lifecycle through HTTP",
    "actors": "100,000 actors with state, 1,000 of them active",
    "tail": "what ten event streams cost whoever submits",
    "pages": "what 100 open streams of events cost a task",
    "page": "the page in a browser: how soon, and how smoothly",
    "grown": "a task behind 100,000 stored ones, beside one behind 100",
    "search": "a search by words in 50,000 tasks, and what indexing one costs",
    "tenants": "what a tenant that floods costs another",
    "log": "the event log beside bare inserts",
    "metrics": "what figures cost a task, and how long /metrics takes",
    "postgres": "the whole lifecycle on PostgreSQL, with 1, 2, 4 and 8 workers; CPU of a task",
    "recovery": "kill -9 with 10,000 open tasks",
    "long_run": "one task of 500 steps: its journal, the store, its replay",
    "starts": "how long until something is there: help, up, ask; memory of an idle mesh",
    "install": "size of the default install",
    "dapr": "the lifecycle on Dapr; 1, 32 and 128 in flight",
    "dapr_replicas": "the same with two workers, and the CPU of one, two and four",
    "dapr_failover": "kill -9 of one of two workers on Dapr",
    "dapr_agents": "dapr-agents on the same daprd",
    "dapr_up": "mesh up --host dapr; a task's acceptance over MQTT and HTTP",
    "clients": "an SDK's client in a run beside the plain one, and the replay of 200 calls",
    "children": "fifty children of one run at once",
    "model_http": "the HTTP adapter of the model port",
    "model_picker": "the routing in front of the HTTP adapter",
    "providers": "models by name: latency, cost, failover, at fakes",
    "ledger": "what ledger and budgets add to a call of a model",
    "scenarios": "tasks done with a provider that misbehaves, beside pydantic-ai and dapr-agents",
}
MAX_SECONDS = 1800.0


async def measure(names: Sequence[str], bench: Bench, ends_at: float) -> tuple[list[Row], list[str]]:
    """Run benchmarks one after the other; returns their rows, and the names of those that broke."""
    rows: list[Row] = []
    broken: list[str] = []
    for name in names:
        if time.monotonic() > ends_at:
            rows.append(Row(name, "not run: the time is up"))
            continue
        bench.say(f"{name}: {BENCHMARKS.get(name, '')} (load {machine.load_average()})")
        try:
            rows += await import_module(f"benchmarks.{name}").measure(bench)
        except Exception as error:  # noqa: BLE001 one that breaks must not cost the figures of the others
            traceback.print_exc()
            broken.append(name)
            rows.append(Row(name, f"broke: {type(error).__name__}: {error}"))
    return rows, broken


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--only", action="append", choices=BENCHMARKS, metavar="NAME", help=f"of {', '.join(BENCHMARKS)}"
    )
    parser.add_argument("--quick", action="store_true", help="two short rounds: a look, no measurement")
    parser.add_argument("--markdown", action="store_true", help="print a Markdown table")
    parser.add_argument(
        "--soak", type=int, nargs="?", const=1_000_000, metavar="TASKS", help="memory over so many tasks"
    )
    parser.add_argument(
        "--retained",
        type=int,
        nargs="?",
        const=1_000_000,
        metavar="TASKS",
        help="rate, memory and file over so many tasks with retention, and how a store of so many opens",
    )
    parser.add_argument("--soak-minutes", type=float, default=10.0, help="the most that these take")
    parser.add_argument("--profile", action="store_true", help="where the time of a task goes")
    parser.add_argument(
        "--folder", type=Path, default=Path(tempfile.gettempdir()), help="on the disk to be measured"
    )
    return parser.parse_args(arguments)


async def run(options: argparse.Namespace) -> int:
    bench = Bench(
        options.folder,
        rounds=2 if options.quick else 5,
        scale=0.3 if options.quick else 1.0,
        say=lambda text: print(text, file=sys.stderr, flush=True),
    )
    started, load = time.monotonic(), machine.load_average()
    if options.profile:
        print(await import_module("benchmarks.profile").report(bench))
        return 0
    if tasks := options.soak or options.retained:
        long = import_module("benchmarks.soak" if options.soak else "benchmarks.retained")
        rows, broken = await long.measure(bench, tasks, options.soak_minutes * 60), []
    else:
        rows, broken = await measure(options.only or list(BENCHMARKS), bench, started + MAX_SECONDS)
    heading = [
        *machine.describe(),
        f"fsync {machine.fsync_ms(options.folder):.2f} ms in {options.folder}; load average {load} at the "
        f"start, {machine.load_average()} at the end; {bench.rounds} rounds, sides in turns; "
        f"{time.monotonic() - started:.0f} s",
        "figures are medians with (lowest..highest); a ratio is the median of the rounds' ratios",
    ]
    print("\n".join(heading), "\n")
    print(as_markdown(rows) if options.markdown else as_text(rows))
    return 1 if broken else 0


def main() -> None:
    sys.exit(asyncio.run(run(parse(sys.argv[1:]))))


if __name__ == "__main__":
    main()
