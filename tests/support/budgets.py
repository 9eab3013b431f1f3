"""A provider that keeps count of what it is owed, and an accounted model before it."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from decimal import Decimal
from typing import Any

from meshwright.core.events import Event
from meshwright.core.messages import Usage
from meshwright.core.model_events import ModelCalled
from meshwright.core.money import ZERO, Budget, Price
from meshwright.engine.events.filter import EventFilter
from meshwright.engine.events.log import EventLog
from meshwright.engine.kernel.envelope import ActorRef
from meshwright.engine.kernel.runtime import Runtime
from meshwright.engine.kernel.turns import ActorKind
from meshwright.engine.sql.sqlite import SqliteDatabase
from meshwright.engine.stores.sqlite import SqliteStore
from meshwright.models.port import Call, CallContext, ChatMessage, ModelReply, ModelRequest, OnDelta
from meshwright.models.prices import Prices
from meshwright.money.account import ACCOUNT, Account, BudgetAccount
from meshwright.money.accounting import Accounting
from meshwright.money.balance import OPENED, Balance
from meshwright.money.budgets import Budgets, BudgetView
from meshwright.testing.mesh import BEGINNING, ManualClock

A_DOLLAR_A_TOKEN = Price(input=ZERO, output=Decimal(1_000_000))
"""Of what is written: `max_tokens` is the estimate of a call in dollars."""

STEP = CallContext(task_id="t1", agent_id="clerk", attempt=1, step=1)
"""The first step of a task."""


class Provider:
    """Writes as many tokens as it is told to, or all that it may. `owed` is the true bill, in dollars."""

    name = "provider"

    def __init__(self) -> None:
        self.owed = ZERO
        self.requests: list[ModelRequest] = []
        self.tokens: int | None = None
        self.failure: Exception | None = None
        self.pieces: Sequence[str] = ()
        self.open = asyncio.Event()
        self.open.set()

    async def complete(self, request: ModelRequest, on_delta: OnDelta | None = None) -> ModelReply:
        self.requests.append(request)
        for piece in self.pieces:
            assert on_delta is not None
            on_delta(piece)
        await self.open.wait()
        if self.failure is not None:
            raise self.failure
        tokens = request.max_tokens if self.tokens is None else self.tokens
        self.owed += tokens
        return ModelReply(content="done", model="provider-1", usage=Usage(completion_tokens=tokens))

    async def close(self) -> None: ...


class Spending:
    """A host with budgets, an accounted model, the calls that were made, and the events on the bus."""

    def __init__(
        self, runtime: Runtime, log: EventLog, clock: ManualClock, prices: Prices, *declared: Budget
    ):
        self.runtime = runtime
        self.log = log
        self.clock = clock
        self.prices = prices
        self.declared = declared
        self.provider = Provider()
        self.calls: list[Call] = []
        self.events: list[Event] = []
        runtime.listen("spend", self.events.append)
        self.model = self.another()

    def another(self) -> Accounting:
        """An accounted model that knows nothing of the first: as after a crash."""
        budgets = Budgets(self.declared, self.runtime)
        return Accounting(self.provider, budgets, self.prices, self.calls.append)

    async def call(self, dollars: int = 1, *, on_delta: OnDelta | None = None, **fields: Any) -> ModelReply:
        return await self.model.complete(request(dollars, **fields), on_delta)

    async def balance(self, account: str) -> tuple[Decimal, Decimal]:
        await self.model.budgets.settled()
        state = await self.state(account)
        return state.spent, state.reserved

    async def state(self, account: str) -> Balance:
        state = await self.runtime.read(ActorRef(ACCOUNT, account))
        assert isinstance(state, Balance)
        return state

    def request(self, dollars: int = 1, **fields: Any) -> ModelRequest:
        return request(dollars, **fields)

    async def views(self) -> list[BudgetView]:
        await self.model.budgets.settled()
        return await self.tenant_views(None)

    async def tenant_views(self, tenant_id: str | None) -> list[BudgetView]:
        opened = await self.log.query(EventFilter(event_type=OPENED, order="desc"))
        accounts = [Account.model_validate(event.payload) for event in opened]
        return await self.model.budgets.views(accounts, tenant_id)

    async def recorded(self) -> list[dict[str, Any]]:
        """The calls that accounts have published, since no run did."""
        return [
            event.fields for event in await self.log.query(EventFilter(event_type=ModelCalled.event_type))
        ]

    def happened(self, event_type: str) -> list[Event]:
        return [event for event in self.events if event.event_type == event_type]


def request(dollars: int = 1, **fields: Any) -> ModelRequest:
    """A call that may cost so many dollars."""
    given = {"messages": (ChatMessage(role="user", content="?"),), "user": "clerk", "max_tokens": dollars}
    return ModelRequest(**{**given, **fields})


def budget(limit: int | str, name: str = "pot", **fields: Any) -> Budget:
    return Budget(name=name, limit_usd=Decimal(limit), **fields)


@asynccontextmanager
async def spending(
    *declared: Budget, price: Price | None = A_DOLLAR_A_TOKEN, now: datetime = BEGINNING
) -> AsyncIterator[Spending]:
    """A mesh's budgets on a host in memory, with a clock to move by hand."""
    database, clock = SqliteDatabase(None), ManualClock(now)
    log = EventLog(database)
    runtime = Runtime(SqliteStore(database, log), clock=clock)
    runtime.register(ActorKind.from_class(BudgetAccount, type=ACCOUNT))
    await runtime.start()
    try:
        yield Spending(runtime, log, clock, Prices(default=price, listed=dict), *declared)
    finally:
        await runtime.stop()


def replying(**fields: Any) -> Any:
    """A provider's way to answer that says so of its reply."""

    async def complete(*args: object) -> ModelReply:
        return ModelReply(model="provider-1", **fields)

    return complete


async def until(happened: Callable[[], Any]) -> None:
    while not happened():
        await asyncio.sleep(0)
