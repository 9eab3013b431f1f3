"""What the part `figures` costs a task, in instructions, and how long `/metrics` takes with 100 agents."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import AsyncGenerator, Mapping
from typing import Any

from benchmarks import instructions
from benchmarks.bench import Bench, Round
from benchmarks.client import Connection, make_request
from benchmarks.figures import Row, column, percentile, ratio
from benchmarks.sides import run_side, side
from benchmarks.stand import BenchAgent, build_stand
from meshwright import Agent, Capability
from meshwright.edges.http.server import serving
from meshwright.mesh.orchestration.tasks import Tasks

PART = "figures"
MAX_GROWTH = 0.03
PAIRS = 2
AGENTS, TASKS_OF_EACH = 100, 20
SCRAPES = 40
MAX_MS = 50.0


async def measure(bench: Bench) -> list[Row]:
    return [await _cost_of_figures(bench), await _time_of_metrics(bench)]


async def _cost_of_figures(bench: Bench) -> Row:
    what = "instructions a task, beside a mesh without figures"
    target = f"<= +{MAX_GROWTH:.0%}"
    if shutil.which("valgrind") is None:
        return Row(what, "not run: needs valgrind on PATH", target=target)
    pairs = await bench.in_turns(
        {"with": lambda: _counted(bench), "without": lambda: _counted(bench, without=PART)},
        rounds=min(bench.rounds, PAIRS),
    )
    ours, floor = (column(pairs[name], "total", "k") for name in ("with", "without"))
    growth = ratio(ours, floor) - 1
    parts = ", ".join(
        f"{name} {ratio(column(pairs['with'], name), column(pairs['without'], name)) - 1:+.1%}"
        for name in instructions.PROCESSES.values()
    )
    return Row(what, ours, floor, f"{growth:+.1%}", target, growth <= MAX_GROWTH, parts)


async def _counted(bench: Bench, **options: str) -> Round:
    tasks = bench.count(instructions.FEW), bench.count(instructions.MANY)
    counted = await asyncio.to_thread(instructions.measure, *tasks, **options)
    thousands = {name: count / 1000 for name, count in counted.items()}
    return {**thousands, "total": sum(thousands.values())}


async def _time_of_metrics(bench: Bench) -> Row:
    async def scraped() -> Mapping[str, Any]:
        with bench.folder() as folder:
            async with side("benchmarks.metrics:serve", folder=str(folder)) as server:
                return await run_side("benchmarks.metrics:scrape", url=(await server.next())["url"])

    rounds = (await bench.in_turns({"ours": scraped}))["ours"]
    p50 = column(rounds, "p50_ms", "ms", 1)
    return Row(
        f"`GET /metrics` with {AGENTS} agents, p50",
        p50,
        target=f"<= {MAX_MS:.0f} ms",
        met=p50.median <= MAX_MS,
        note=f"p90 {column(rounds, 'p90_ms', 'ms', 1)}, {column(rounds, 'kilobytes', 'KB').median:.0f} KB, "
        f"each agent with {TASKS_OF_EACH} ended tasks",
    )


def _agents() -> tuple[type[Agent], ...]:
    return tuple(
        type(
            f"Agent{number}",
            (BenchAgent,),
            {"agent_id": f"agent-{number}", "capabilities": (Capability(f"bench-{number}"),)},
        )
        for number in range(AGENTS)
    )


async def serve(folder: str) -> AsyncGenerator[dict[str, str]]:
    """A mesh of many agents, of which each has ended tasks."""
    stand = build_stand(folder, agents=_agents())
    async with stand.running() as mesh, serving(mesh, "127.0.0.1", 0) as server:
        for _ in range(TASKS_OF_EACH):
            asked = (mesh.get(Tasks).ask(f"agent-{number}", "Hello") for number in range(AGENTS))
            await asyncio.gather(*asked)
        yield {"url": server.url}


async def scrape(url: str) -> dict[str, float]:
    """Ask for the metrics, one time after the other."""
    connection, took = await Connection.open(url), list[float]()
    data = make_request("GET", "/metrics")
    for _ in range(SCRAPES):
        started = time.perf_counter()
        reply = await connection.request(data)
        took.append((time.perf_counter() - started) * 1000)
        assert reply.status == 200 and reply.body.count(b"meshwright_agent_slots{") == AGENTS
    return {
        "p50_ms": percentile(took, 0.5),
        "p90_ms": percentile(took, 0.9),
        "kilobytes": len(reply.body) / 1000,
    }
