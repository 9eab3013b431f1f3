"""What ten event streams cost whoever submits, while 500 events a second flow."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from typing import Any

from pydantic_core import to_json

from benchmarks.bench import Bench, Round
from benchmarks.client import Connection, make_request, stream
from benchmarks.figures import Row, column, percentile, ratio
from benchmarks.instant import request
from benchmarks.sides import run_side, side

CLIENTS = 10
EVENTS_A_SECOND = 500
SECONDS, WARM_UP_SECONDS = 2.5, 0.5
MAX_RATIO = 1.2


async def measure(bench: Bench) -> list[Row]:
    sample = await bench.sample()
    tasks_a_second = EVENTS_A_SECOND / len(sample["events"])
    seconds = bench.seconds(SECONDS)
    with bench.folder() as folder:
        async with side("benchmarks.http:ours", folder=str(folder)) as server:
            url = (await server.next())["url"]

            async def without() -> Round:
                return await run_side("benchmarks.tail:submit", url=url, rate=tasks_a_second, seconds=seconds)

            async def streaming() -> Round:
                async with side("benchmarks.tail:follow", url=url) as clients:
                    await clients.next()
                    submitted = await without()
                    return {**submitted, **await clients.next()}

            rounds = await bench.in_turns({"without": without, "with": streaming})
    p50, floor = (column(rounds[name], "p50_ms", "ms", 2) for name in ("with", "without"))
    share = ratio(p50, floor)
    got = column(rounds["with"], "events_a_second", "events/s")
    return [
        Row(
            f"submit over HTTP with {CLIENTS} event streams, p50",
            p50,
            floor,
            f"{share:.2f}",
            "<= 1.2",
            share <= MAX_RATIO,
            f"each stream got {got}, {column(rounds['with'], 'missed').median:.0f} missed; "
            f"p99 {column(rounds['with'], 'p99_ms', 'ms', 1)} with, "
            f"{column(rounds['without'], 'p99_ms', 'ms', 1)} without",
        )
    ]


async def submit(url: str, rate: float, seconds: float, key: str = "") -> dict[str, float]:
    """Submit tasks at a steady rate, whatever the answers take."""
    data = make_request("POST", "/tasks", to_json(request()), key=key)
    idle = [await Connection.open(url) for _ in range(32)]
    times: list[float] = []

    async def one() -> None:
        connection = idle.pop() if idle else await Connection.open(url)
        started = time.perf_counter()
        reply = await connection.request(data)
        times.append(time.perf_counter() - started)
        assert reply.status == 202, reply
        idle.append(connection)

    warm_up = int(rate * WARM_UP_SECONDS)
    started = asyncio.get_running_loop().time()
    async with asyncio.TaskGroup() as running:
        for number in range(warm_up + int(rate * seconds)):
            await asyncio.sleep(started + number / rate - asyncio.get_running_loop().time())
            running.create_task(one())
    counted = times[warm_up:]
    return {"p50_ms": percentile(counted, 0.5) * 1000, "p99_ms": percentile(counted, 0.99) * 1000}


async def follow(url: str) -> AsyncGenerator[dict[str, Any]]:
    """Follow all events on several streams; says how many came, and how many were missed."""
    seqs: list[list[int]] = [[] for _ in range(CLIENTS)]
    opened = asyncio.Semaphore(0)

    async def read(number: int) -> None:
        async for frame in stream(url, "/events/stream"):
            if not frame:
                opened.release()
            for line in frame.splitlines():
                if line.startswith(b"id: "):
                    seqs[number].append(int(line[4:]))

    reading = [asyncio.create_task(read(number)) for number in range(CLIENTS)]
    for _ in range(CLIENTS):
        await opened.acquire()
    started = time.perf_counter()
    yield {}
    seconds = time.perf_counter() - started
    missed = sum(last - first + 1 - len(seen) for seen in seqs for first, last in [(seen[0], seen[-1])])
    yield {"events_a_second": sum(map(len, seqs)) / CLIENTS / seconds, "missed": missed}
    for task in reading:
        task.cancel()
