"""What ledger and one budget cost a call, beside the bare model, which answers at once."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.bench import Bench
from benchmarks.figures import Figure, Row, column
from benchmarks.instant import ANSWER, QUESTION, InstantModel
from benchmarks.load import drive
from meshwright.core.messages import Usage
from meshwright.core.money import Budget, Price
from meshwright.engine.events.log import EventLog
from meshwright.engine.kernel.runtime import Runtime
from meshwright.engine.kernel.turns import ActorKind
from meshwright.engine.sql.sqlite import SqliteDatabase
from meshwright.engine.stores.sqlite import SqliteStore
from meshwright.models.port import CallContext, ChatMessage, Model, ModelReply, ModelRequest, OnDelta
from meshwright.models.prices import Prices
from meshwright.money.account import ACCOUNT, BudgetAccount
from meshwright.money.accounting import Accounting, call_events
from meshwright.money.budgets import Budgets

SECONDS, WARM_UP_SECONDS = 2.0, 0.5
IN_FLIGHT = 128
MAX_ADDED_MS = 0.1
PRICE = Price(input=Decimal(3), output=Decimal(15))
PLENTY = Budget(name="bench", limit_usd=Decimal(1_000_000), window="month")


class Unpriced(InstantModel):
    """Leaves it to us to say what it cost."""

    async def complete(self, request: ModelRequest, on_delta: OnDelta | None = None) -> ModelReply:
        return UNPRICED


UNPRICED = ModelReply(content=ANSWER, model="instant", usage=Usage(prompt_tokens=200, completion_tokens=25))


async def measure(bench: Bench) -> list[Row]:
    sides = {
        name: partial(bench.side, f"benchmarks.ledger:{name}", seconds=bench.seconds(SECONDS))
        for name in ("of_tasks", "of_nobody", "unlimited", "bare")
    }
    rounds = await bench.in_turns(sides)
    bare = column(rounds["bare"], "call_ms", "ms", 4)
    return [
        row("ledger and a budget, a call of a task", rounds["of_tasks"], bare),
        row("the same, of no task: its row is told apart", rounds["of_nobody"], bare),
        row("the ledger alone, no budget declared", rounds["unlimited"], bare),
    ]


def row(what: str, rounds: list[dict[str, Any]], bare: Figure) -> Row:
    """What a call takes more of the wall's clock than the bare model's, so many in flight."""
    calls = column(rounds, "call_ms", "ms", 4)
    added = Figure([ours - floor for ours, floor in zip(calls.values, bare.values, strict=True)], "ms", 4)
    return Row(
        f"{what}, {IN_FLIGHT} in flight",
        calls,
        bare,
        f"+{added.median:.3f} ms",
        f"<= +{MAX_ADDED_MS} ms",
        added.median <= MAX_ADDED_MS,
        note=f"{column(rounds, 'cpu_ms', 'ms', 3)} of CPU",
    )


async def of_tasks(folder: str, seconds: float) -> dict[str, float]:
    """Calls that a journal tells of."""
    return await with_host(folder, seconds, [PLENTY], task_id="01J0000000000000000000TASK")


async def of_nobody(folder: str, seconds: float) -> dict[str, float]:
    """Calls that are told of by themselves."""
    return await with_host(folder, seconds, [PLENTY])


async def unlimited(folder: str, seconds: float) -> dict[str, float]:
    """No budget."""
    return await with_host(folder, seconds, [], task_id="01J0000000000000000000TASK")


async def bare(folder: str, seconds: float) -> dict[str, float]:
    """The model alone."""
    return await call_it(Unpriced(), seconds)


async def with_host(folder: str, seconds: float, budgets: list[Budget], **context: Any) -> dict[str, float]:
    """The model behind budgets on an embedded host with its event log."""
    database = SqliteDatabase(Path(folder))
    runtime = Runtime(SqliteStore(database, EventLog(database)))
    runtime.register(ActorKind.from_class(BudgetAccount, type=ACCOUNT))
    await runtime.start()
    model = Accounting(Unpriced(), Budgets(budgets, runtime), Prices(default=PRICE), call_events(runtime))
    try:
        return await call_it(model, seconds, **context)
    finally:
        await model.close()
        await runtime.stop()


async def call_it(model: Model, seconds: float, **context: Any) -> dict[str, float]:
    """What a call takes of the clock and of the CPU."""
    steps = iter(range(10**9))

    async def call() -> None:
        where = {**context, "attempt": 1, "step": next(steps)} if context else {}
        assert (await model.complete(make_request(where))).content

    return await timed(call, seconds)


async def timed(call: Callable[[], Awaitable[None]], seconds: float) -> dict[str, float]:
    used = time.process_time()
    seen = await drive(call, in_flight=IN_FLIGHT, seconds=seconds, warm_up_seconds=WARM_UP_SECONDS)
    cpu = (time.process_time() - used) / seen.total * 1000
    return {"call_ms": 1000 / seen.summary()["rate"], "cpu_ms": cpu, **seen.summary()}


def make_request(context: dict[str, Any]) -> ModelRequest:
    """A call as an agent makes it."""
    return ModelRequest(
        messages=(
            ChatMessage(role="system", content="You are an agent that does tasks for people. " * 20),
            ChatMessage(role="user", content=QUESTION),
        ),
        tags=("bench",),
        user="bench-agent",
        context=CallContext(**context),
    )
