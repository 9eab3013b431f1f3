"""dapr-agents on the same daprd and Redis, with a model that answers at once; 1 and 32 in flight.

It is installed into an environment of its own in the user's cache, and never becomes a dependency.
"""

from __future__ import annotations

import asyncio
import json
import shutil
from asyncio.subprocess import DEVNULL, PIPE
from functools import partial
from pathlib import Path

from benchmarks.bench import Bench, Round
from benchmarks.dapr import OURS, on_ground, timing_of
from benchmarks.dapr_ground import COMPONENTS, ground, missing
from benchmarks.figures import Row, column, compared
from benchmarks.rivals import DAPR_AGENTS, installed
from benchmarks.sides import ROOT, clean_environment

LEVELS, JUDGED = (1, 32), 32
ROUNDS = 2
SECONDS, MIN_SECONDS = 8.0, 1.0
RUN_SECONDS = 120.0
MIN_TIMES = 20.0
CONFIGURATION = """
apiVersion: dapr.io/v1alpha1
kind: Configuration
metadata:
  name: mesh
spec:
  tracing:
    samplingRate: "0"
"""
"""Without our list of what may be called: it uses other parts of Dapr."""


async def measure(bench: Bench) -> list[Row]:
    what = "lifecycle on Dapr, beside dapr-agents"
    if reason := missing():
        return [Row(what, f"not run: {reason}")]
    try:
        python = await installed(DAPR_AGENTS)
    except (OSError, RuntimeError, TimeoutError) as error:
        return [Row(what, f"not run: {DAPR_AGENTS} cannot be installed: {error}")]
    rounds = await bench.in_turns(
        {
            "ours": partial(on_ground, bench, OURS, timing=timing_of(bench, LEVELS)),
            "dapr-agents": partial(rival, bench, python),
        },
        rounds=min(ROUNDS, bench.rounds),
    )
    return [
        compared(
            f"{what}, {'one at a time' if level == 1 else f'{level} in flight'}",
            column(rounds["ours"], f"rate_{level}", "tasks/s"),
            column(rounds["dapr-agents"], f"rate_{level}", "tasks/s", 1),
            target=">= 20 times" if level == JUDGED else "",
            meets=(lambda times, median: times >= MIN_TIMES) if level == JUDGED else None,
            note=f"dapr-agents: p50 {column(rounds['dapr-agents'], f'p50_ms_{level}', 'ms')}, "
            f"p99 {column(rounds['dapr-agents'], f'p99_ms_{level}', 'ms')}",
        )
        for level in LEVELS
    ]


async def rival(bench: Bench, python: Path) -> Round:
    """Run it beside a sidecar of its own."""
    with bench.folder() as folder:
        components, result = folder / "components", folder / "result.json"
        shutil.copytree(COMPONENTS, components)
        (components / "config.yaml").write_text(CONFIGURATION)
        seconds = max(MIN_SECONDS, bench.seconds(SECONDS))
        async with ground(folder, protocol="none", components=components) as here:
            process = await asyncio.create_subprocess_exec(
                str(python),
                *("-m", "benchmarks.dapr_agents_side", str(result), str(seconds)),
                cwd=ROOT,
                env={**clean_environment(), **here.replicas[0].app.environment()},
                stdin=DEVNULL,
                stdout=DEVNULL,
                stderr=PIPE,
            )
            _, errors = await asyncio.wait_for(process.communicate(), RUN_SECONDS)
        if not result.exists():
            raise RuntimeError(f"dapr-agents ended with {process.returncode}: {errors.decode()[-2000:]}")
        return json.loads(result.read_text())
