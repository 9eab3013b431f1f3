"""What a hundred open pages cost a task: CPU of the mesh for a task with 100 of them, beside one.

200 events a second flow. In the first row pages follow the events; in the second they ask for what changed
too, as the view of the tasks does, on a mesh with 10,000 tasks. The load and the pages are processes of their
own, whose CPU does not count; what the kernel does to send counts as the mesh's.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import AsyncGenerator
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from benchmarks.bench import Bench, Round
from benchmarks.client import Connection, make_request
from benchmarks.figures import Row, column, ratio
from benchmarks.grown import grow
from benchmarks.machine import cpu_of
from benchmarks.sides import run_side, side
from benchmarks.stand import build_stand
from meshwright.edges.http.server import serving

PAGES, TASKS, EVENTS_A_SECOND = 100, 10_000, 200
SECONDS, WARM_UP_SECONDS = 3.0, 0.5
POLL_SECONDS, PART_SECONDS = 0.1, 10.0
TURN_SECONDS = 30.0  # until each of 100 pages has its turn
MAX_RATIO = 1.2
# As lib.js of the page has it.
PAUSE_SECONDS, SLOW_SECONDS, SECONDS_PER_STREAM, SPREAD_SECONDS = 0.5, 5.0, 0.3, 0.02
ASKED, ASKED_SLOWLY = (
    ("/tasks?limit=50", "/status", "/inbox?limit=200"),
    ("/figures", "/dead-letters?limit=50"),
)


async def measure(bench: Bench) -> list[Row]:
    sample = await bench.sample()
    rate = EVENTS_A_SECOND / len(sample["events"])
    with bench.folder() as folder:
        async with side("benchmarks.pages:served", folder=str(folder)) as server:
            url = (await server.next())["url"]

            async def with_pages(pages: int, *, asks: bool, warm_up: float, seconds: float) -> Round:
                async with side("benchmarks.pages:watch", url=url, pages=pages, asks=asks) as watching:
                    await watching.next()
                    idle = await server.next()
                    submitting = asyncio.create_task(_submit(url, rate, warm_up + seconds))
                    before = idle
                    while before["seq"] == idle["seq"]:
                        await asyncio.sleep(POLL_SECONDS)
                        before = await server.next()
                    await asyncio.sleep(warm_up)
                    before = await server.next()
                    await asyncio.sleep(seconds)
                    after = await server.next()
                    await submitting
                    tasks = (after["seq"] - before["seq"]) / len(sample["events"])
                    cpu_ms = (after["cpu"] - before["cpu"]) * 1000 / tasks
                    return {"cpu_ms": cpu_ms, **await watching.next()}

            def sides(*, asks: bool, warm_ups: tuple[float, float], seconds: float) -> dict[str, Any]:
                numbers = zip(("one", "many"), (1, PAGES), warm_ups, strict=True)
                return {
                    name: partial(with_pages, pages, asks=asks, warm_up=warm_up, seconds=seconds)
                    for name, pages, warm_up in numbers
                }

            follow = sides(
                asks=False, warm_ups=(WARM_UP_SECONDS, 2 * WARM_UP_SECONDS), seconds=bench.seconds(SECONDS)
            )
            asking = sides(asks=True, warm_ups=(WARM_UP_SECONDS, TURN_SECONDS / 2), seconds=TURN_SECONDS)
            rounds = await bench.in_turns(follow)
            asked = await bench.in_turns(asking, rounds=1)
    return [
        _row(f"a task with {PAGES} open streams of events", rounds),
        _row(f"a task with {PAGES} open pages that show {TASKS:,} tasks", asked),
    ]


async def _submit(url: str, rate: float, seconds: float) -> None:
    """Submit for so long, in parts that are shorter than idle connections stay open."""
    parts = math.ceil(seconds / PART_SECONDS)
    for _ in range(parts):
        await run_side("benchmarks.tail:submit", url=url, rate=rate, seconds=seconds / parts)


def _row(what: str, rounds: dict[str, list[Round]]) -> Row:
    many, one = (column(rounds[name], "cpu_ms", "ms CPU", 2) for name in ("many", "one"))
    share = ratio(many, one)
    note = (
        f"{EVENTS_A_SECOND} events/s; beside one; each of many got {column(rounds['many'], 'events')} events"
    )
    return Row(what, many, one, f"{share:.2f}", f"<= {MAX_RATIO}", share <= MAX_RATIO, note)


async def served(folder: str) -> AsyncGenerator[dict[str, Any]]:
    """A mesh with many tasks and its API; then its seconds of CPU and last event, each time it is asked."""
    first = build_stand(folder)
    async with first.running():
        await first.task()
        await first.mesh.log.flush()
    grow(Path(folder), TASKS)
    stand = build_stand(folder)
    async with stand.running(), serving(stand.mesh, "127.0.0.1", 0) as server:
        yield {"url": server.url}
        while True:
            cpu = time.process_time() + cpu_of(stand.writer_pid)
            yield {"cpu": cpu, "seq": await stand.mesh.log.last_seq()}


class _Page(asyncio.Protocol):
    """A page: a connection that reads a stream, and counts its events."""

    def __init__(self, opened: asyncio.Semaphore) -> None:
        self.events = 0
        self.streams = 0
        self.news = asyncio.Event()
        self._opened = opened

    def connection_made(self, transport: Any) -> None:
        head = "host: 127.0.0.1\r\naccept: text/event-stream\r\n\r\n"
        transport.write(f"GET /events/stream HTTP/1.1\r\n{head}".encode())

    def data_received(self, data: bytes) -> None:
        if b"retry: " in data:
            self._opened.release()
        before, said, _ = data.rpartition(b" streams\n")
        if said:
            self.streams = int(before.rpartition(b": ")[2])
        if found := data.count(b"\nevent: "):
            self.events += found
            self.news.set()

    async def ask(self, url: str) -> None:
        """Ask for what changed, each time it is this page's turn."""
        connection, asked_at, slowed_at = await Connection.open(url), 0.0, 0.0
        while True:
            await self.news.wait()
            pause = self.streams * SECONDS_PER_STREAM * (0.5 + random.random())
            turn = asked_at + pause - time.monotonic()
            spread = random.random() * self.streams * SPREAD_SECONDS
            await asyncio.sleep(max(PAUSE_SECONDS, turn, spread))
            self.news.clear()
            asked_at = time.monotonic()
            is_due = asked_at >= slowed_at + SLOW_SECONDS
            slowed_at = asked_at if is_due else slowed_at
            for path in (*ASKED, *(ASKED_SLOWLY if is_due else ())):
                reply = await connection.request(make_request("GET", path))
                assert reply.status == 200, reply


async def watch(url: str, pages: int, *, asks: bool) -> AsyncGenerator[dict[str, Any]]:
    """Open so many pages; says how many events came to each."""
    place, opened = urlsplit(url), asyncio.Semaphore(0)
    loop = asyncio.get_running_loop()
    found = [
        (await loop.create_connection(partial(_Page, opened), place.hostname, place.port))[1]
        for _ in range(pages)
    ]
    for _ in range(pages):
        await opened.acquire()
    asking = [asyncio.create_task(page.ask(url)) for page in found if asks]
    yield {}
    yield {"events": min(page.events for page in found)}
    for task in asking:
        task.cancel()
