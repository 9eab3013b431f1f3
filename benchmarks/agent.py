"""An agent's task from request to answer: one tool, two calls of a model over HTTP, each step durable.

On SQLite beside systems that make the same work durable, each as documented, and beside a floor written by
hand; on PostgreSQL beside DBOS. All tasks are submitted and awaited by one client; the provider costs the
same for each and counts for none.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

from benchmarks import rivals
from benchmarks.bench import Bench, Round
from benchmarks.figures import Row, column, compared, ratio
from benchmarks.postgres import DURABLE
from benchmarks.sides import ROOT, clean_environment, side
from tests.support.postgres import Cluster, postgres_programs

IN_FLIGHT = 1, 16, 64, 256
SECONDS, WARM_UP_SECONDS = 4.0, 2.0
MAX_ROUNDS = 3
OURS, FLOOR = "Meshwright", "by hand"
LANGGRAPH, RESTATE, DBOS = "LangGraph", "Restate", "DBOS"
_MAX_SECONDS = 300.0


class Contender(NamedTuple):
    """A side's module, its interpreter, and what its environment names: programs that it starts, a server."""

    module: str
    python: Path = Path(sys.executable)
    environment: Mapping[str, str] = {}


async def measure(bench: Bench) -> list[Row]:
    contenders, absent = await _contenders(bench)
    sample = json.dumps(await bench.sample())
    async with side("benchmarks.agent_task.provider:serve") as provider:
        url = (await provider.next())["url"]
        rounds = await bench.in_turns(
            {name: partial(_run, bench, contender, url, sample) for name, contender in contenders.items()},
            rounds=min(MAX_ROUNDS, bench.rounds),
        )
        on_postgres = await _on_postgres(bench, contenders, url)
    return [
        *_rows(rounds),
        *on_postgres,
        *(Row(f"the agent's task, {name}", f"not run: {why}") for name, why in absent.items()),
    ]


async def _contenders(bench: Bench) -> tuple[dict[str, Contender], dict[str, str]]:
    """The systems that can run here, and why others do not."""
    contenders = {OURS: Contender("with_mesh"), FLOOR: Contender("by_hand")}
    absent: dict[str, str] = {}

    async def restate() -> Contender:
        server = await rivals.installed_npm(rivals.RESTATE_SERVER, "restate-server")
        python = await rivals.installed(rivals.RESTATE)
        return Contender("with_restate", python, {"RESTATE": str(server)})

    async def temporal() -> Contender:
        server = await rivals.built(Path(__file__).parent / "agent_task" / "temporal_server")
        python = await rivals.installed(rivals.TEMPORAL)
        return Contender("with_temporal", python, {"TEMPORAL": str(server)})

    async def library(module: str, requirements: str) -> Contender:
        return Contender(module, await rivals.installed(requirements))

    others: dict[str, Callable[[], Awaitable[Contender]]] = {
        LANGGRAPH: partial(library, "with_langgraph", rivals.LANGGRAPH),
        DBOS: partial(library, "with_dbos", rivals.DBOS),
        RESTATE: restate,
        "Temporal": temporal,
    }
    for name, install in others.items():
        try:
            contenders[name] = await install()
        except (OSError, RuntimeError, TimeoutError) as error:
            absent[name] = str(error) or type(error).__name__
            bench.say(f"  {name}: {absent[name]}")
    return contenders, absent


async def _on_postgres(bench: Bench, contenders: Mapping[str, Contender], url: str) -> list[Row]:
    """The same on a PostgreSQL server, whose processes count."""
    programs = postgres_programs()
    if programs is None or DBOS not in contenders:
        return [Row("the agent's task on PostgreSQL", "not run: PostgreSQL or DBOS is not installed")]
    cluster, databases = Cluster(programs, DURABLE), itertools.count()

    async def run(contender: Contender) -> Round:
        database = f"peer_{next(databases)}"
        await asyncio.to_thread(cluster.query, f"CREATE DATABASE {database}", "postgres")
        server = {"DATABASE": str(cluster.url(database)), "SERVER_DATA": str(cluster.folder / "data")}
        return await _run(bench, contender._replace(environment=server), url, "")

    try:
        await asyncio.to_thread(cluster.create)
        sides = {name: partial(run, contenders[name]) for name in (OURS, DBOS)}
        return _rows(await bench.in_turns(sides, rounds=min(MAX_ROUNDS, bench.rounds)), " on PostgreSQL")
    finally:
        cluster.remove()


async def _run(bench: Bench, contender: Contender, url: str, sample: str) -> Round:
    plan = {
        "in_flight": IN_FLIGHT,
        "seconds": bench.seconds(SECONDS),
        "warm_up_seconds": bench.seconds(WARM_UP_SECONDS),
    }
    with bench.folder() as folder:
        environment = {"PROVIDER": url, "BENCH_FOLDER": str(folder), **contender.environment}
        process = await asyncio.create_subprocess_exec(
            *(
                str(contender.python),
                "-m",
                f"benchmarks.agent_task.{contender.module}",
                json.dumps(plan),
                sample,
            ),
            cwd=ROOT,
            env={**clean_environment(), **environment},
            stdin=DEVNULL,
            stdout=PIPE,
            stderr=PIPE,
        )
        try:
            lines, errors = await asyncio.wait_for(process.communicate(), _MAX_SECONDS)
        finally:
            if process.returncode is None:
                os.kill(process.pid, signal.SIGINT)  # it ends what it has started
                await process.wait()
    if process.returncode:
        raise RuntimeError(f"{contender.module}: {errors.decode(errors='replace')[-800:]}")
    return json.loads(lines.splitlines()[-1])


def _rows(rounds: Mapping[str, list[Round]], where: str = "") -> list[Row]:
    """A row for each system and number in flight: the rates, and beside them p50, CPU and memory."""
    rows = []
    for name, theirs in rounds.items():
        for flight in IN_FLIGHT if name != OURS else ():
            ours = rounds[OURS]
            target, meets = _target(name + where, flight, ours, theirs)
            rows.append(
                compared(
                    f"the agent's task{where} beside {name}, {flight} in flight",
                    column(ours, f"rate_{flight}", "tasks/s"),
                    column(theirs, f"rate_{flight}", "tasks/s"),
                    target=target,
                    meets=meets,
                    note=f"ours {_costs(ours, flight)}; {name} {_costs(theirs, flight)}",
                )
            )
    return rows


def _target(
    name: str, flight: int, ours: list[Round], theirs: list[Round]
) -> tuple[str, Callable[[float, float], bool] | None]:
    if name in (LANGGRAPH, f"{DBOS} on PostgreSQL") and flight in (1, 64):
        cpu = ratio(column(ours, f"cpu_ms_{flight}"), column(theirs, f"cpu_ms_{flight}"))
        rate = 2.0 if name != LANGGRAPH and flight == 64 else 0.0
        words = f"CPU <= 0.5: {cpu:.2f}" + (f"; >= {rate:g}" if rate else "")
        return words, lambda share, median: cpu <= 0.5 and share >= rate
    if name == RESTATE and flight == 64:
        return ">= 1.3", lambda share, median: share >= 1.3
    return "", None


def _costs(rounds: list[Round], flight: int) -> str:
    p50, cpu = column(rounds, f"p50_ms_{flight}", "ms", 1), column(rounds, f"cpu_ms_{flight}", "ms", 1)
    client = column(rounds, f"client_ms_{flight}", "", 1).median
    memory = column(rounds, f"memory_mb_{flight}").median
    return f"p50 {p50}, CPU {cpu} ({client:.1f} of it in the client's process), {memory:.0f} MB"
