"""What a hundred open pages cost a task: CPU of the mesh for a task with 100 streams of events, beside one.

200 events a second flow. The load and the readers are processes of their own, whose CPU does not count; what
the kernel does to send counts as the mesh's.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncGenerator
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from benchmarks.bench import Bench, Round
from benchmarks.figures import Row, column, ratio
from benchmarks.sides import run_side, side
from benchmarks.stand import build_stand
from meshwright.edges.http.server import serving

PAGES = 100
EVENTS_A_SECOND = 200
SECONDS, QUIET_SECONDS = 3.0, 1.5
MAX_RATIO = 1.2
_TICKS = os.sysconf("SC_CLK_TCK")


async def measure(bench: Bench) -> list[Row]:
    sample = await bench.sample()
    rate = EVENTS_A_SECOND / len(sample["events"])
    with bench.folder() as folder:
        async with side("benchmarks.pages:served", folder=str(folder)) as server:
            url = (await server.next())["url"]

            async def with_pages(pages: int) -> Round:
                async with side("benchmarks.pages:watch", url=url, pages=pages) as readers:
                    await readers.next()
                    before, seconds = (await server.next())["cpu"], bench.seconds(SECONDS)
                    await run_side("benchmarks.tail:submit", url=url, rate=rate, seconds=seconds)
                    seen = await readers.next()
                    cpu = (await server.next())["cpu"] - before
                    return {"cpu_ms": cpu * 1000 / (rate * seconds), **seen}

            sides = {"one": partial(with_pages, 1), "many": partial(with_pages, PAGES)}
            rounds = await bench.in_turns(sides)
    many, one = (column(rounds[name], "cpu_ms", "ms CPU", 2) for name in ("many", "one"))
    share = ratio(many, one)
    seen = column(rounds["many"], "events", "events")
    return [
        Row(
            f"a task with {PAGES} open streams of events, {EVENTS_A_SECOND} events/s",
            many,
            one,
            f"{share:.2f}",
            f"<= {MAX_RATIO}",
            share <= MAX_RATIO,
            f"beside one stream; each got {seen}",
        )
    ]


async def served(folder: str) -> AsyncGenerator[dict[str, Any]]:
    """A mesh and its API; then the seconds of CPU that it has taken, each time it is asked."""
    stand = build_stand(folder)
    async with stand.running(), serving(stand.mesh, "127.0.0.1", 0) as server:
        yield {"url": server.url}
        while True:
            yield {"cpu": time.process_time() + cpu_of(stand.writer_pid)}


def cpu_of(pid: int) -> float:
    """The seconds of CPU that a process has taken; 0 is none."""
    if not pid:
        return 0.0
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


class _Page(asyncio.Protocol):
    """A connection that reads a stream, and counts its events."""

    def __init__(self, opened: asyncio.Semaphore) -> None:
        self.events = 0
        self._opened = opened

    def connection_made(self, transport: Any) -> None:
        head = "host: 127.0.0.1\r\naccept: text/event-stream\r\n\r\n"
        transport.write(f"GET /events/stream HTTP/1.1\r\n{head}".encode())

    def data_received(self, data: bytes) -> None:
        self.events += data.count(b"\nevent: ")
        if b"retry: " in data:
            self._opened.release()


async def watch(url: str, pages: int) -> AsyncGenerator[dict[str, Any]]:
    """Follow all events on so many streams, until no more come; says how many came to each."""
    place, opened = urlsplit(url), asyncio.Semaphore(0)
    loop = asyncio.get_running_loop()
    found = [
        (await loop.create_connection(partial(_Page, opened), place.hostname, place.port))[1]
        for _ in range(pages)
    ]
    for _ in range(pages):
        await opened.acquire()
    yield {}
    seen = -1
    while (total := sum(page.events for page in found)) != seen:
        seen = total
        await asyncio.sleep(QUIET_SECONDS)
    yield {"events": min(page.events for page in found)}
