"""Virtual actors: 100,000 with state, of which 1,000 may be active. Memory follows the active ones."""

from __future__ import annotations

import asyncio
import gc
import random
import time
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from benchmarks.bench import Bench
from benchmarks.figures import Row, column, percentile
from benchmarks.machine import rss_mb
from benchmarks.sides import run_side
from meshwright.engine.kernel.actor import Actor, Turn, turn
from meshwright.engine.kernel.envelope import ActorRef
from meshwright.engine.kernel.runtime import Runtime
from meshwright.engine.kernel.turns import ActorKind
from meshwright.engine.stores.sqlite import SqliteStore

ACTORS, ACTIVE = 100_000, 1_000
MANY_ACTIVE = 20_000
CALLS = 2_000
MAX_BYTES, MAX_ACTIVATION_MS = 5_000, 0.1


class Counted(BaseModel):
    """A small state, of about 150 bytes."""

    count: int = 0
    name: str = ""
    words: list[str] = []


class Counter(Actor[Counted]):
    """Counts, and tells what it has counted."""

    @turn
    def bump(self, turn: Turn) -> int:
        self.state.count += 1
        self.state.name = self.ref.id
        self.state.words = [
            "some",
            "words",
            "that",
            "take",
            "room",
            "in",
            "the",
            "state",
            "of",
            "an",
            "actor",
        ]
        return self.state.count

    @turn
    def tell(self, turn: Turn) -> int:
        return self.state.count


async def measure(bench: Bench) -> list[Row]:
    with bench.folder() as folder:
        count = bench.count(ACTORS)
        written = await run_side("benchmarks.actors:write", folder=str(folder), actors=count)
        bench.say(f"  wrote {count:,} actors at {written['rate']:,.0f} turns/s")

        async def walk() -> dict[str, Any]:
            return await run_side("benchmarks.actors:walk", folder=str(folder), actors=count)

        rounds = (await bench.in_turns({"ours": walk}))["ours"]
    size = column(rounds, "bytes_each", "B")
    activation = column(rounds, "activation_ms", "ms", 3)
    grown = column(rounds, "grown_mb", "MB", 1)
    return [
        Row(
            "memory of one active actor",
            size,
            target="<= 5,000 B",
            met=size.median <= MAX_BYTES,
            note=f"resident memory, from {ACTIVE:,} to {MANY_ACTIVE:,} active",
        ),
        Row(
            f"activation, p50, of {count:,} actors",
            activation,
            target="<= 0.1 ms",
            met=activation.median <= MAX_ACTIVATION_MS,
            note=f"the call of an inactive actor takes {column(rounds, 'cold_ms', 'ms', 3)}, "
            f"of an active one {column(rounds, 'warm_ms', 'ms', 3)}",
        ),
        Row(
            f"growth by a walk over {count:,} actors, {ACTIVE:,} active",
            grown,
            note=f"resident memory after it {column(rounds, 'rss_mb', 'MB', 1)}; "
            f"{column(rounds, 'active').median:,.0f} active; written at {written['rate']:,.0f} turns/s, "
            f"{written['bytes_each']:.0f} B on disk each",
        ),
    ]


def make_host(folder: str, max_active: int = ACTIVE) -> Runtime:
    """A host with one kind of actor."""
    runtime = Runtime(SqliteStore.in_folder(Path(folder)), max_active=max_active, max_resting=max_active)
    runtime.register(ActorKind.from_class(Counter))
    return runtime


async def write(folder: str, actors: int) -> dict[str, float]:
    """Give every actor a state."""
    runtime = make_host(folder)
    await runtime.start()
    started = time.perf_counter()
    await each(runtime, "bump", range(actors))
    seconds = time.perf_counter() - started
    await runtime.stop()
    return {"rate": actors / seconds, "bytes_each": file_bytes(folder) / actors}


def file_bytes(folder: str) -> int:
    return Path(folder, "mesh.db").stat().st_size


async def walk(folder: str, actors: int) -> dict[str, float]:
    """Call every actor once, then some that are active and some that are not, then keep more active."""
    runtime = make_host(folder)
    await runtime.start()
    await each(runtime, "tell", range(2 * ACTIVE))
    before = rss_mb()
    await each(runtime, "tell", range(actors))
    grown = {"grown_mb": rss_mb() - before, "rss_mb": rss_mb(), "active": runtime.active}
    inactive = random.sample(range(actors // 2), min(CALLS, actors // 8))  # the walk ended with the others
    cold = [await timed(runtime, number) for number in inactive]
    warm = [await timed(runtime, 0) for _ in cold]
    await runtime.stop()
    calls = {"cold_ms": percentile(cold, 0.5) * 1000, "warm_ms": percentile(warm, 0.5) * 1000}
    size = await bytes_each(folder, min(actors, MANY_ACTIVE))
    return {**grown, **calls, "activation_ms": calls["cold_ms"] - calls["warm_ms"], "bytes_each": size}


async def bytes_each(folder: str, many: int) -> float:
    """What one more active actor takes: the growth from a few active ones to many."""
    runtime = make_host(folder, max_active=many)
    await runtime.start()
    await each(runtime, "tell", range(ACTIVE))
    gc.collect()
    before = rss_mb()
    await each(runtime, "tell", range(many))
    gc.collect()
    grown = rss_mb() - before
    await runtime.stop()
    return grown * 1e6 / (many - ACTIVE)


async def each(runtime: Runtime, method: str, numbers: range, in_flight: int = 256) -> None:
    """Call actors one after the other, so many at a time."""
    left = iter(numbers)

    async def caller() -> None:
        for number in left:
            await runtime.call(ActorRef("Counter", f"actor-{number}"), method)

    await asyncio.gather(*(caller() for _ in range(in_flight)))


async def timed(runtime: Runtime, number: int) -> float:
    started = time.perf_counter()
    await runtime.call(ActorRef("Counter", f"actor-{number}"), "tell")
    return time.perf_counter() - started
