"""The costs of one real worker, what the simulation says of several, and the figures of `docs/scale.md`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.figures import Figure, Row
from benchmarks.scale.model import Cost, Costs, Result, Simulation

FIGURES = Path(__file__).parent / "costs.json"
DURABLE_MS, LOCKED = 0.16, 0.4
"""An fsync of this disk, and the share of the server's work on a group that is done under the log's lock."""
BUSY, COLD_MS = 1.4, 0.15
"""How much slower a core works beside another that works too (two threads of one core), and what a process
pays where its data has left the caches: set once, so that 1 to 8 workers are met."""
MAX_DIFFERENCE = 0.2
GROWN = (1, 10, 100, 1000)
EACH = (1, 16, 128)
"""Workers, and tasks in flight on each."""

Rounds = Sequence[Mapping[str, float]]


def costs_of(lone: Rounds, full: Rounds) -> Costs:
    """The costs of one worker, by rounds with one task in flight and with many, on a machine of two cores."""
    few, many = _used(lone), _used(full)
    groups = few["groups"] - many["groups"]

    def cost(name: str) -> Cost:
        group = max(0.0, (few[name] - many[name]) / groups)
        return Cost((many[name] - group * many["groups"]) / (1 + (BUSY - 1) * many["busy"]), group)

    return Costs(cost("loop"), cost("writer"), cost("server"), COLD_MS, BUSY, LOCKED, DURABLE_MS)


def _used(rounds: Rounds) -> dict[str, float]:
    """What a task uses in milliseconds, its groups, and how much of the time both cores work."""
    loop = median(each["loop_ms"] for each in rounds)
    server = median(each["server_ms"] for each in rounds)
    cpu = median(each["cpu_ms"] for each in rounds)  # the server's too
    rate = median(each["rate"] for each in rounds)
    return {
        "loop": loop,
        "writer": cpu - server - loop,
        "server": server,
        "groups": median(each["groups"] for each in rounds),
        "busy": max(0.0, min(1.0, rate * cpu / 1000 - 1)),
    }


def simulated(costs: Costs, workers: int, in_flight: int) -> Result:
    """Workers and server on one machine of two cores, as `make bench` runs them."""
    return Simulation(costs, workers, server_cores=2).run(in_flight)


def compared_row(costs: Costs, workers: int, in_flight: int, real: Figure) -> Row:
    """What the simulation says beside the real workers."""
    result = simulated(costs, workers, in_flight)
    difference = result.rate / real.median - 1
    return Row(
        f"simulated, {workers} {'worker' if workers == 1 else 'workers'}, {in_flight} in flight",
        Figure([result.rate], "tasks/s"),
        real,
        f"{1 + difference:.2f}",
        f"within {MAX_DIFFERENCE:.0%}",
        abs(difference) <= MAX_DIFFERENCE,
        f"CPU of a task {result.cpu_ms:.1f} ms",
    )


def grown(costs: Costs, server_cores: int) -> dict[int, list[Result]]:
    """Many workers, each on two cores of its own, beside a server: by tasks in flight on each."""
    return {
        each: [
            Simulation(costs, workers, server_cores=server_cores, cores=2).run(
                workers * each, _seconds(workers)
            )
            for workers in GROWN
        ]
        for each in EACH
    }


def _seconds(workers: int) -> float:
    return 4.0 if workers < 100 else 40.0


def store(costs: Costs) -> None:
    """Keep costs for the study."""
    FIGURES.write_text(json.dumps(asdict(costs), indent=2) + "\n")


def stored() -> Costs:
    """The costs that were kept last."""
    kept: dict[str, Any] = json.loads(FIGURES.read_text())
    parts = {name: Cost(**value) if isinstance(value, dict) else value for name, value in kept.items()}
    return Costs(**parts)
