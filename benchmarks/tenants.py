"""What a tenant that floods costs another: its submissions over HTTP, with the flood and without."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

from pydantic_core import from_json, to_json

from benchmarks.bench import Bench, Round
from benchmarks.client import Connection, make_request
from benchmarks.figures import Row, column, ratio
from benchmarks.instant import request
from benchmarks.sides import run_side, side
from benchmarks.stand import build_stand
from meshwright.edges.http.server import serving
from meshwright.money.keys import Keys

TASKS_PER_MINUTE = 600
RATE = TASKS_PER_MINUTE / 60
TIMES = 100
CONNECTIONS = 64
SECONDS = 6.0
MAX_RATIO = 1.1


async def measure(bench: Bench) -> list[Row]:
    seconds, limits = bench.seconds(SECONDS), {"tasks_per_minute": TASKS_PER_MINUTE}
    with bench.folder() as folder:
        async with side("benchmarks.tenants:serve", folder=str(folder), tenants=limits) as server:
            at = await server.next()

            async def quiet() -> Round:
                pace = {"rate": RATE, "seconds": seconds, "key": at["quiet"]}
                return await run_side("benchmarks.tail:submit", url=at["url"], **pace)

            async def flooded() -> Round:
                async with side("benchmarks.tenants:flood", url=at["url"], key=at["loud"]) as loud:
                    await loud.next()
                    submitted = await quiet()
                    return {**submitted, **await loud.next()}

            rounds = await bench.in_turns({"without": quiet, "with": flooded})
    p50, floor = (column(rounds[name], "p50_ms", "ms", 2) for name in ("with", "without"))
    share, refused = ratio(p50, floor), column(rounds["with"], "refused_a_second", "/s")
    return [
        Row(
            f"submit over HTTP beside a tenant at {TIMES} times its rate, p50",
            p50,
            floor,
            f"{share:.2f}",
            f"<= {MAX_RATIO}",
            share <= MAX_RATIO,
            f"refused of the other: {refused}; p99 {column(rounds['with'], 'p99_ms', 'ms', 1)} with, "
            f"{column(rounds['without'], 'p99_ms', 'ms', 1)} without",
        )
    ]


async def serve(folder: str, **settings: Any) -> AsyncGenerator[dict[str, Any]]:
    """A mesh and its API, with a key for each of two tenants."""
    stand = build_stand(folder, **settings)
    async with stand.running() as mesh, serving(mesh, "127.0.0.1", 0) as server:
        names = ("quiet", "loud")
        keys = {name: (await mesh.get(Keys).create(name, tenant_id=name)).key for name in names}
        yield {"url": server.url, **keys}


async def flood(url: str, key: str) -> AsyncGenerator[dict[str, Any]]:
    """Submit at so many times the rate, past its burst; says how many were refused a second."""
    data = make_request("POST", "/tasks", to_json(request()), key=key)
    idle = [await Connection.open(url) for _ in range(CONNECTIONS)]
    loop, refused, missed = asyncio.get_running_loop(), 0, 0
    is_empty = asyncio.Event()

    async def one(connection: Connection) -> None:
        nonlocal refused
        if (await connection.request(data)).status == 429:
            refused += 1
            is_empty.set()
        idle.append(connection)

    async def run() -> None:
        nonlocal missed
        started = loop.time()
        async with asyncio.TaskGroup() as running:
            for number in range(10**9):
                await asyncio.sleep(started + number / (TIMES * RATE) - loop.time())
                if idle:
                    running.create_task(one(idle.pop()))
                else:
                    missed += 1

    flooding = asyncio.create_task(run())
    await is_empty.wait()
    while await _open_tasks(url, key) > RATE:  # noqa: ASYNC110 what its burst has left, in another process
        await asyncio.sleep(0.1)
    begun, before, missed = loop.time(), refused, 0
    yield {}
    seconds = loop.time() - begun
    yield {"refused_a_second": (refused - before) / seconds, "not_sent_a_second": missed / seconds}
    flooding.cancel()


async def _open_tasks(url: str, key: str) -> int:
    connection = await Connection.open(url)
    reply = await connection.request(make_request("GET", "/status", key=key))
    connection.close()
    return sum(from_json(reply.body)["tasks"].values())
