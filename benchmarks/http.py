"""The lifecycle through HTTP: 128 tasks in flight, each given by `POST /tasks`, its end heard on one stream.

The floor stands behind the same server and framework, with routes of its own.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import StreamingResponse
from pydantic_core import to_json

from benchmarks.bench import Bench
from benchmarks.client import Connection, make_request, stream
from benchmarks.figures import Row, column, compared
from benchmarks.floor import Floor, Writer
from benchmarks.instant import ANSWER, InstantModel, request
from benchmarks.lifecycle import stall_row, warm_up
from benchmarks.load import drive, watching_stalls
from benchmarks.sides import run_side, side
from benchmarks.stand import build_stand
from meshwright.cli.serving import collect_young
from meshwright.core.encoding import encode
from meshwright.core.events import Event
from meshwright.core.messages import Outcome, Receipt, TaskRequest
from meshwright.edges.http.server import serving
from tests.support.settings import Settings

IN_FLIGHT = 128
SECONDS = 2.5
ENDS = "/events/stream?event_type=task.succeeded&after_seq=0"
TASK_ID = re.compile(rb'"task_id":"([^"]+)"')


async def measure(bench: Bench) -> list[Row]:
    sample = await bench.sample()
    rounds = await bench.in_turns(
        {
            "ours": partial(behind_http, bench, "benchmarks.http:ours"),
            "floor": partial(behind_http, bench, "benchmarks.http:by_hand", sample=sample),
        }
    )
    ours, floor = rounds["ours"], rounds["floor"]
    return [
        compared(
            "lifecycle through HTTP, 128 in flight",
            column(ours, "rate", "tasks/s"),
            column(floor, "rate", "tasks/s"),
            target=">= 0.6 and >= 1,500/s",
            meets=lambda share, median: share >= 0.6 and median >= 1500,
            note=f"p50 {column(ours, 'p50_ms', 'ms', 1)}, "
            f"until accepted {column(ours, 'accepted_ms', 'ms', 1)}; "
            f"floor p50 {column(floor, 'p50_ms', 'ms', 1)}",
        ),
        stall_row("longest event loop stall, HTTP", column(ours, "stall_ms", "ms", 1)),
    ]


async def behind_http(bench: Bench, server: str, **arguments: Any) -> dict[str, Any]:
    """Run a server in one process and the load in another."""
    with bench.folder() as folder:
        async with side(server, folder=str(folder), **arguments) as running:
            url = (await running.next())["url"]
            seen = await run_side("benchmarks.http:load", url=url, seconds=bench.seconds(SECONDS))
            return {**seen, **await running.next()}


async def load(url: str, seconds: float) -> dict[str, float]:
    """Give tasks and hear of their ends."""
    data = make_request("POST", "/tasks", to_json(request()))
    idle = [await Connection.open(url) for _ in range(IN_FLIGHT)]
    ends = Ends(stream(url, ENDS))
    accepted: list[float] = []
    await ends.start()

    async def task() -> None:
        connection = idle.pop()
        started = asyncio.get_running_loop().time()
        reply = await connection.request(data)
        accepted.append(asyncio.get_running_loop().time() - started)
        idle.append(connection)
        found = TASK_ID.search(reply.body)
        assert reply.status == 202 and found, reply
        await ends.wait(found[1])

    seen = await drive(task, in_flight=IN_FLIGHT, seconds=seconds, warm_up_seconds=warm_up(seconds))
    ends.stop()
    accepted.sort()
    return {**seen.summary(), "accepted_ms": accepted[len(accepted) // 2] * 1000}


class Ends:
    """Who waits for the end of which task; an end may come before the wait."""

    def __init__(self, frames: AsyncIterator[bytes]) -> None:
        self._frames = frames
        self._ends: dict[bytes, asyncio.Future[None]] = {}
        self._reading: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Return when the stream is open."""
        await anext(self._frames)
        self._reading = asyncio.create_task(self._read())

    def stop(self) -> None:
        if self._reading is not None:
            self._reading.cancel()

    async def wait(self, task_id: bytes) -> None:
        await self._of(task_id)
        del self._ends[task_id]

    def _of(self, task_id: bytes) -> asyncio.Future[None]:
        return self._ends.setdefault(task_id, asyncio.get_running_loop().create_future())

    async def _read(self) -> None:
        async for frame in self._frames:
            found = TASK_ID.search(frame)
            if found:
                self._of(found[1]).set_result(None)


async def ours(folder: str, **settings: Any) -> AsyncGenerator[dict[str, Any]]:
    """A mesh and its API."""
    stand = build_stand(folder, **settings)
    async with stand.running(), serving(stand.mesh, "127.0.0.1", 0) as server:
        async with watching_stalls() as stalls:
            yield {"url": server.url}
        yield {"stall_ms": stalls.max_seconds * 1000}


async def by_hand(folder: str, sample: dict[str, Any]) -> AsyncGenerator[dict[str, Any]]:
    """The floor behind the API's server."""
    floor: Any = HttpFloor(folder, sample)
    collect_young()
    async with serving(floor, "127.0.0.1", 0, make_app=lambda mesh, streams: floor.app) as server:
        yield {"url": server.url}
        yield {}


class HttpFloor:
    """The floor behind two routes on the API's framework: one takes tasks, one tells their ends."""

    def __init__(self, folder: str, sample: dict[str, Any]) -> None:
        self.settings = Settings()  # the server's limits
        writer = Writer(Path(folder, "floor.db"))
        self._floor = Floor(writer, sample, commits=5, model=InstantModel())
        self._ends: list[asyncio.Queue[bytes]] = []
        self._running: set[asyncio.Task[None]] = set()
        self._seq = 0
        self.app = FastAPI()
        self.app.router.add_route("/tasks", self.submit, methods=["POST"])
        self.app.router.add_route("/events/stream", self.stream, methods=["GET"])

    async def submit(self, request: Request) -> Response:
        """Take a task, and see to it."""
        task = TaskRequest.model_validate_json(await request.body())
        task_id = await self._floor.accept(to_json(task))
        running = asyncio.create_task(self._finish(task_id))
        self._running.add(running)
        running.add_done_callback(self._running.discard)
        receipt = Receipt(task_id=task_id, status="dispatched", dispatched_to="bench-agent", score=1.0)
        return Response(encode(receipt), 202, media_type="application/json")

    async def stream(self, request: Request) -> Response:
        """The ends of tasks from now on."""
        ends: asyncio.Queue[bytes] = asyncio.Queue()
        self._ends.append(ends)

        async def frames() -> AsyncGenerator[bytes]:
            while True:
                yield await ends.get()

        return StreamingResponse(frames(), media_type="text/event-stream")

    async def _finish(self, task_id: str) -> None:
        await self._floor.finish(task_id)
        self._seq += 1
        now = datetime.now(UTC)
        outcome = Outcome(
            task_id=task_id,
            agent_id="bench-agent",
            status="succeeded",
            success=True,
            result={"text": ANSWER},
            completed_at=now,
        )
        event = Event(
            id=f"{task_id}/{self._seq}",
            event_type="task.succeeded",
            topic="task-progress",
            time=now,
            task_id=task_id,
            payload=outcome,
            seq=self._seq,
        )
        frame = b"id: %d\nevent: task.succeeded\ndata: %b\n\n" % (self._seq, encode(event))
        for ends in self._ends:
            ends.put_nowait(frame)
