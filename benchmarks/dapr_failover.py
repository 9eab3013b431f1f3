"""Kill -9 of one of two workers on Dapr under load: how long until the actors that it held answer elsewhere.

What any client of Dapr's actor API sees: calls through the survivor's sidecar, of actors that placement had
put on the worker that is killed. And how long until the tasks are done that were open at that moment.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import grpc.aio
from dapr.proto import api_service_v1, api_v1
from pydantic import BaseModel
from pydantic_core import to_json

from benchmarks.bench import Bench, Round
from benchmarks.dapr import on_ground
from benchmarks.dapr_floor import WHERE, Floor
from benchmarks.dapr_ground import kill, missing
from benchmarks.dapr_stand import build_dapr_stand
from benchmarks.figures import Row, column, compared
from benchmarks.floor import Writer
from benchmarks.instant import request
from benchmarks.stand import Stand
from meshwright.engine.kernel.actor import Actor, Turn, turn
from meshwright.engine.kernel.turns import ActorKind

IDS = 60
IN_FLIGHT = 32
LOAD_SECONDS = 1.0  # before the kill
CALL_SECONDS = 0.25  # daprd repeats a call that found nobody a second later: a new one finds out sooner
AGAIN_SECONDS = 0.05
DONE_SECONDS = 30.0
ROUNDS = 3
MAX_SECONDS, MAX_HTTP_SECONDS = 1.0, 15.0
WHAT = "kill -9 of a worker on Dapr"
Task = Callable[[], Awaitable[object]]


class Nothing(BaseModel):
    """No state."""


class Where(Actor[Nothing]):
    """Tells which process it is in."""

    @turn
    def where(self, turn: Turn) -> int:
        """The id of the process."""
        return os.getpid()


async def measure(bench: Bench) -> list[Row]:
    if reason := missing():
        return [Row(WHAT, f"not run: {reason}")]
    by_hand = {"sample": await bench.sample(), "by_calls": True}
    ours = partial(
        on_ground, bench, "benchmarks.dapr_failover:ours", replica="benchmarks.dapr_failover:replica"
    )
    floor = partial(
        on_ground,
        bench,
        "benchmarks.dapr_failover:by_hand",
        replica="benchmarks.dapr_replicas:by_hand",
        **by_hand,
    )
    done_seconds = bench.seconds(DONE_SECONDS)
    alone, both = ({"with_sidecar": dies, "done_seconds": done_seconds} for dies in (False, True))
    rounds = await bench.in_turns(
        {
            "ours, with its sidecar": partial(ours, timing=both),
            "floor, with its sidecar": partial(floor, timing=both),
            "ours, alone": partial(ours, timing=alone),
            "floor, alone": partial(floor, timing=alone),
        },
        rounds=min(ROUNDS, bench.rounds),
    )
    http = await bench.in_turns({"ours, alone": partial(ours, timing=alone, protocol="http")}, rounds=1)
    return [
        *(
            _row(how, rounds[f"ours, {how}"], rounds[f"floor, {how}"])
            for how in ("with its sidecar", "alone")
        ),
        _http_row(http["ours, alone"]),
    ]


def _row(how: str, ours: Sequence[Round], floor: Sequence[Round]) -> Row:
    return compared(
        f"{WHAT} {how}, until its actors answer",
        column(ours, "answers_s", "s", 2),
        column(floor, "answers_s", "s", 2),
        target="<= 1 s",
        meets=lambda share, median: median <= MAX_SECONDS,
        note=_note(ours),
    )


def _http_row(ours: Sequence[Round]) -> Row:
    seconds = column(ours, "answers_s", "s", 2)
    what = f"{WHAT} alone, http channel, until its actors answer"
    met = seconds.median <= MAX_HTTP_SECONDS
    return Row(what, seconds, target="<= 15 s", met=met, note=_note(ours))


def _note(ours: Sequence[Round]) -> str:
    unfinished = sum(each["unfinished"] for each in ours)
    return (
        f"{column(ours, 'held').median:.0f} of {IDS} actors; calls that failed {column(ours, 'failed')}; "
        f"all tasks that were open then were done after {column(ours, 'done_s', 's', 1)}"
        + (f", but for {unfinished:.0f} that took longer" if unfinished else "")
    )


# The sides


def build(folder: str, place: dict[str, Any], *, front: bool) -> Stand:
    """The mesh, with an actor that tells where it is."""
    stand = build_dapr_stand(folder, place, front=front)
    stand.mesh.runtime.register(ActorKind.from_class(Where, type=WHERE))
    return stand


async def ours(
    folder: str, place: dict[str, Any], with_sidecar: bool, done_seconds: float
) -> AsyncGenerator[Mapping[str, float]]:
    """Our worker that survives, and has the load."""
    stand = build(folder, place, front=True)
    async with stand.running():
        yield {}
        yield await after_kill(place, stand.task, with_sidecar=with_sidecar, done_seconds=done_seconds)


async def replica(folder: str, place: dict[str, Any]) -> AsyncGenerator[dict[str, Any]]:
    """Our worker that is killed."""
    async with build(folder, place, front=False).running():
        yield {}
        yield {}


async def by_hand(
    folder: str,
    place: dict[str, Any],
    with_sidecar: bool,
    done_seconds: float,
    sample: dict[str, Any],
    by_calls: bool,
) -> AsyncGenerator[Mapping[str, float]]:
    """The floor's worker that survives. What the other had is lost: it has no recovery."""
    body = to_json(request())
    log = Writer(Path(folder, "floor.db"))
    async with Floor(place, sample, by_calls=by_calls, log=log).running() as floor:
        yield {}
        yield await after_kill(place, lambda: floor.task(body), with_sidecar=with_sidecar, done_seconds=0)


async def after_kill(
    place: dict[str, Any], task: Task, *, with_sidecar: bool, done_seconds: float
) -> dict[str, float]:
    """Kill the other worker under load, and time what follows; open tasks have `done_seconds` to end."""
    [worker], [_, sidecar] = place["pids"]["worker"], place["pids"]["daprd"]
    async with calls_of(place["app"]) as call, load(task) as open_tasks:
        await asyncio.sleep(LOAD_SECONDS)
        places = await asyncio.gather(*(_answer(call, f"id-{n}") for n in range(IDS)))
        held = [f"id-{n}" for n, (pid, _) in enumerate(places) if pid == worker]
        hit, killed = set(open_tasks), time.perf_counter()
        for pid in (worker, sidecar) if with_sidecar else (worker,):
            kill(pid)
        answers = await asyncio.gather(*(_answer(call, each) for each in held))
        answered = time.perf_counter()
        unfinished: set[Any] = set()
        if done_seconds:
            _, unfinished = await asyncio.wait(hit, timeout=done_seconds)
        return {
            "answers_s": answered - killed,
            "failed": sum(failed for _, failed in answers),
            "held": len(held),
            "done_s": time.perf_counter() - killed,
            "unfinished": len(unfinished),
        }


@asynccontextmanager
async def load(task: Task) -> AsyncIterator[set[asyncio.Task[object]]]:
    """Keep tasks in flight within a block; gives those that are."""
    under_way: set[asyncio.Task[object]] = set()

    def begin() -> None:
        one = asyncio.ensure_future(task())
        under_way.add(one)
        one.add_done_callback(ended)

    def ended(one: asyncio.Task[object]) -> None:
        under_way.discard(one)
        if not one.cancelled():
            one.exception()  # looked at: what the kill breaks without recovery is no news
            begin()

    for _ in range(IN_FLIGHT):
        begin()
    try:
        yield under_way
    finally:
        for each in set(under_way):
            each.cancel()


@asynccontextmanager
async def calls_of(app: Mapping[str, Any]) -> AsyncIterator[Callable[[str], Awaitable[int]]]:
    """Calls of actors through a sidecar, as any client of Dapr makes them; each gives its process's id."""
    token = (("dapr-api-token", app["api_token"]),)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{app['grpc_port']}") as channel:
        stub = api_service_v1.DaprStub(channel)

        async def call(actor_id: str) -> int:
            asked = api_v1.InvokeActorRequest(actor_type=WHERE, actor_id=actor_id, method=WHERE, data=b"null")
            return int((await stub.InvokeActor(asked, metadata=token, timeout=CALL_SECONDS)).data)

        yield call


async def _answer(call: Callable[[str], Awaitable[int]], actor_id: str) -> tuple[int, int]:
    """Call until there is an answer; gives that, and how many calls failed."""
    failed = 0
    while True:
        try:
            return await call(actor_id), failed
        except (grpc.aio.AioRpcError, ValueError):  # it failed, or is said to have succeeded with no reply
            failed += 1
            await asyncio.sleep(AGAIN_SECONDS)
