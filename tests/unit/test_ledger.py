"""The ledger has a row for every call of a model, and its sums are exact."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic_core import from_json, to_json

from meshwright.errors import InvalidInput
from meshwright.ledger.calls import Call, call_id_of, called, leave, left
from meshwright.ledger.costs import Cost, costs_of, since_of
from meshwright.ledger.rows import COLUMNS, row_of
from meshwright.messages import Event, TaskBudget, Usage
from meshwright.models.port import CallContext, ModelReply, ModelRequest, RateLimited
from tests.support.event_logs import START, LogOnFile, event, open_log
from tests.support.postgres import Place

ROWS = "SELECT * FROM calls ORDER BY seq"


@pytest.fixture
async def kept(place: Place) -> AsyncIterator[LogOnFile]:
    async with open_log(place) as kept:
        yield kept


def request(*tags: str, user: str = "writer", **context: Any) -> ModelRequest:
    return ModelRequest(model="fast", messages=(), tags=tags, user=user, context=CallContext(**context))


def reply(cost: str | None = "0.25", **fields: Any) -> ModelReply:
    usage = Usage(prompt_tokens=100, completion_tokens=10, cached_tokens=40, reasoning_tokens=4)
    known: dict[str, Any] = {"model": "big-1", "usage": usage, "cost_source": "priced"}
    return ModelReply(**{**known, "cost_usd": None if cost is None else Decimal(cost), **fields})


def call(number: int, asked: ModelRequest | None = None, task_id: str | None = "t", **fields: Any) -> Event:
    """The event of the `number`-th call, one second after the one before."""
    asked = asked or request("cheap")
    known = {"call_id": f"c{number}"} if fields else {"call_id": f"c{number}", "reply": reply()}
    return event(number, "model.called", task_id=task_id, payload=called(asked, **{**known, **fields}))


async def sums(kept: LogOnFile, by: Any = "agent", **wanted: Any) -> dict[str | None, Cost]:
    found = await costs_of(kept.log, **{"tenant_id": "default", "by": by, **wanted})
    return {item.key: item for item in found.items}


# A call and its event


def test_a_call_that_was_answered_says_what_its_reply_says() -> None:
    asked = request("cheap", "local", task_id="t", thread_id="talk", tenant_id="acme", attempt=2, step=3)
    answered = reply(deployment="d1", attempts=2)
    payload = called(asked, call_id="c", reply=answered, latency_ms=12.5)
    assert payload["duration_ms"] == payload["latency_ms"]
    made = Call.model_validate(payload)
    assert made == Call.model_validate(from_json(to_json(payload)))
    assert (made.model, made.deployment, made.group, made.tags) == ("big-1", "d1", "fast", ("cheap", "local"))
    assert (made.user, made.thread_id, made.tenant_id) == ("writer", "talk", "acme")
    assert (made.usage, made.cost_usd, made.cost_source) == (answered.usage, Decimal("0.25"), "priced")
    assert (made.attempts, made.attempt, made.step, made.outcome) == (2, 2, 3, "ok")


def test_a_call_that_failed_says_its_code_and_why() -> None:
    error = RateLimited("it has had enough")
    error.attempts = 3
    payload = called(request(), call_id="c", error=error, cost_usd=Decimal(0), cost_source="priced")
    made = Call.model_validate(payload)
    assert (made.outcome, made.error, made.attempts, made.cost_usd) == ("failed", "RateLimited", 3, 0)
    assert made.reason == "it has had enough"


def test_the_text_of_an_unexpected_error_stays_out_of_the_ledger() -> None:
    payload = called(request(), call_id="c", error=ValueError("key sk-123 is none"))
    assert (payload["error"], payload["reason"]) == ("ValueError", None)
    assert "sk-123" not in str(payload)


def test_what_nobody_told_of_a_call_without_a_reply_is_unknown_and_not_nothing() -> None:
    made = Call.model_validate(called(request(), call_id="c", error=asyncio.CancelledError(), cancelled=True))
    assert (made.outcome, made.cost_usd, made.cost_source) == ("cancelled", None, "unknown")


def test_a_step_of_a_task_calls_under_the_same_id_however_often() -> None:
    where = {"task_id": "t", "attempt": 1, "step": 2}
    assert call_id_of(request(**where)) == call_id_of(request("other", **where))
    others = [{"task_id": "u"}, {"attempt": 2}, {"step": 3}, {"generation": 2}]
    ids = {call_id_of(request(**{**where, **other})) for other in [{}, *others]}
    assert len(ids) == 5
    assert call_id_of(request()) != call_id_of(request())


def test_who_catches_an_error_learns_of_the_call_that_it_ended() -> None:
    error, other = asyncio.CancelledError(), TimeoutError()
    assert left(error) is None
    leave(error, called(request(), call_id="c", error=error, cancelled=True, cost_usd=Decimal("0.5")))
    other.__cause__ = error
    made = left(other)
    assert made is not None
    assert (made.call_id, made.cost_usd) == ("c", Decimal("0.5"))


# Rows


async def test_each_call_is_a_row_however_it_ended(kept: LogOnFile) -> None:
    saved = reply("0", cache_hit=True, saved_usd=Decimal("0.25"))
    no_price = {"cost_usd": None, "cancelled": True, "error": asyncio.CancelledError()}
    await kept.write(
        [
            call(1),
            call(2, error=RateLimited("wait"), cost_usd=Decimal(0), cost_source="priced"),
            call(3, **no_price),
            call(4, reply=saved),
            call(5, request("compression", user="llm-service"), task_id=None, reply=reply(attempts=3)),
        ]
    )
    await sums(kept)
    rows = await kept.rows(
        "SELECT call_id, task_id, agent_id, outcome, error, cost_pico, saved_pico, cache_hit, attempts "
        "FROM calls ORDER BY seq"
    )
    assert rows == [
        ("c1", "t", "writer", "ok", None, 250_000_000_000, None, 0, 1),
        ("c2", "t", "writer", "failed", "RateLimited", 0, None, 0, 1),
        ("c3", "t", "writer", "cancelled", "CancelledError", None, None, 0, 1),
        ("c4", "t", "writer", "ok", None, 0, 250_000_000_000, 1, 1),
        ("c5", None, "llm-service", "ok", None, 250_000_000_000, None, 0, 3),
    ]


NONSENSE: list[Any] = [
    "text",
    [1],
    {"usage": "many", "cost_usd": "free"},
    {"cost_usd": "NaN"},
    {"cost_usd": "-1"},
    {"cost_usd": "1e30"},
    {"usage": {"prompt_tokens": 10**30, "completion_tokens": -1}},
    {"latency_ms": float("nan")},
    {"latency_ms": None},
    {"attempts": 10**30},
    {"step": 2**70},
    {"tags": ["\ud83d", "a"], "model": "\ud83d"},
    {"tenant_id": 7},
    {"cost_usd": True, "user": [], "cache_hit": "yes", "outcome": {}, "model": 7, "error": {"a": 1}},
    {"tags": [["a"], {"b": 1}], "cost_usd": ["0.5"], "latency_ms": "long", "usage": [7]},
]


@pytest.mark.parametrize("payload", NONSENSE, ids=str)
async def test_nothing_in_an_event_keeps_the_ledger_from_its_sums(kept: LogOnFile, payload: Any) -> None:
    nonsense = [event(n, "model.called", agent_id="odd", payload=payload) for n in range(1, 4)]
    await kept.write([*nonsense, call(4)])
    for by in ("agent", "tag", "model", "task", "tenant"):
        found = await costs_of(kept.log, tenant_id="default", by=by)  # type: ignore[arg-type]
        assert (found.total.calls, found.total.cost_usd) == (4, Decimal("0.25"))
        assert found.total.unpriced == 3


async def test_a_call_of_an_earlier_version_is_a_row_too(kept: LogOnFile) -> None:
    usage = {"prompt_tokens": 7, "completion_tokens": 3}
    old = {"model": "m", "group": "fast", "tags": ["a"], "user": "w", "usage": usage, "cost_usd": 1.5e-05}
    await kept.write([event(1, "model.called", task_id="t", payload={**old, "tool_calls": [], "step": 2})])
    assert (await sums(kept, "model"))["m"].cost_usd == Decimal("0.000015")


async def tables(kept: LogOnFile) -> list[tuple[Any, ...]]:
    await sums(kept)
    return await kept.rows(ROWS)


def some_calls(count: int) -> list[Event]:
    others = [{"reply": reply(None)}, {"error": RateLimited("wait")}, {"reply": reply("0.1")}]
    return [call(n, request("a", "b", user=f"agent-{n % 3}"), **others[n % 3]) for n in range(1, count + 1)]


async def test_the_ledger_is_made_from_the_log_alone_however_and_whenever(place: Place) -> None:
    events = some_calls(1500)
    async with open_log(place / "at once") as kept:
        await kept.write(events)
        expected = await tables(kept)
        for spoil in ("DELETE FROM calls WHERE seq > 7", "UPDATE calls SET cost_pico = 7"):
            await kept.database.write(lambda connection, spoil=spoil: connection.execute(spoil).rowcount)
            await kept.log.rebuild()
            assert await tables(kept) == expected
    for start in range(0, len(events), 500):
        async with open_log(place / "broken") as kept:
            await kept.write(events[start : start + 500])  # and nobody asks before the end
    async with open_log(place / "broken") as kept:
        assert await tables(kept) == expected
    assert len(expected) == 1500


async def test_a_file_from_before_the_ledger_gets_one(place: Place) -> None:
    async with open_log(place) as kept:
        await kept.write(some_calls(3))
        expected = await tables(kept)
        await kept.database.write(lambda connection: connection.execute("DELETE FROM calls").rowcount)
        await kept.database.write(
            lambda connection: connection.execute("UPDATE projection_positions SET version = 0").rowcount
        )
    async with open_log(place) as kept:
        assert await tables(kept) == expected


async def test_a_row_outlives_its_event(kept: LogOnFile) -> None:
    await kept.write([call(1)])
    await kept.write([event(n) for n in range(2, 2200)])
    assert await kept.log.prune(max_events=10) > 0
    await kept.log.rebuild()
    assert (await sums(kept))["writer"].cost_usd == Decimal("0.25")


# Sums


async def test_costs_are_summed_up_by_whatever_they_were_for(kept: LogOnFile) -> None:
    await kept.write(
        [
            call(1, request("cheap", "research", "cheap", user="a"), task_id="t1", reply=reply("0.1")),
            call(2, request("research", user="b"), task_id="t1", reply=reply("0.2", model="big-2")),
            call(3, request(user="b"), task_id=None, error=RateLimited("wait"), cost_usd=Decimal(0)),
        ]
    )
    wanted = {
        "agent": {"b": "0.2", "a": "0.1"},
        "tag": {"research": "0.3", "cheap": "0.1", None: "0"},
        "model": {"big-2": "0.2", "big-1": "0.1", None: "0"},
        "task": {"t1": "0.3", None: "0"},
        "tenant": {"default": "0.3"},
    }
    for by, expected in wanted.items():
        found = await sums(kept, by)
        assert {key: item.cost_usd for key, item in found.items()} == {
            key: Decimal(cost) for key, cost in expected.items()
        }
        assert list(found) == list(expected)
    total = (await costs_of(kept.log, tenant_id="default", by="tag")).total
    assert (total.calls, total.failed, total.cost_usd) == (3, 1, Decimal("0.3"))
    assert (total.prompt_tokens, total.cached_tokens, total.completion_tokens) == (200, 80, 20)


async def test_a_price_that_nobody_knows_is_never_nothing(kept: LogOnFile) -> None:
    await kept.write([call(1, request(user="known")), call(2, request(user="unknown"), reply=reply(None))])
    found = await sums(kept)
    assert (found["known"].cost_usd, found["known"].unpriced) == (Decimal("0.25"), 0)
    assert (found["unknown"].cost_usd, found["unknown"].unpriced) == (None, 1)
    total = (await costs_of(kept.log, tenant_id="default")).total
    assert (total.cost_usd, total.unpriced) == (Decimal("0.25"), 1)


async def test_an_empty_ledger_comes_to_nothing(kept: LogOnFile) -> None:
    found = await costs_of(kept.log, tenant_id="default")
    assert (found.items, found.omitted, found.total.calls, found.total.saved_usd) == ((), 0, 0, 0)


async def test_what_the_cache_saved_is_counted_as_saved_and_not_as_spent(kept: LogOnFile) -> None:
    await kept.write([call(1, reply=reply("0", cache_hit=True, saved_usd=Decimal("0.25")))])
    [cost] = (await sums(kept)).values()
    assert (cost.cost_usd, cost.saved_usd, cost.cache_hits) == (0, Decimal("0.25"), 1)


async def test_costs_since_a_time_leave_out_what_was_before(kept: LogOnFile) -> None:
    await kept.write([call(n) for n in range(1, 6)])
    found = await sums(kept, since=START + timedelta(seconds=4))
    assert found["writer"].calls == 2


async def test_a_tenant_sees_its_own_costs_alone(kept: LogOnFile) -> None:
    await kept.write([call(1), call(2, request(tenant_id="acme", user="spy"), reply=reply("0.75"))])
    for by in ("agent", "tag", "model", "task", "tenant"):
        mine, theirs = await sums(kept, by), await sums(kept, by, tenant_id="acme")
        assert sum(item.calls for item in mine.values()) == sum(item.calls for item in theirs.values()) == 1
        assert [item.cost_usd for item in theirs.values()] == [Decimal("0.75")]
    assert await sums(kept, tenant_id="nobody") == {}


async def test_a_long_list_ends_with_the_dearest_and_its_total_is_of_all(kept: LogOnFile) -> None:
    await kept.write([call(n, task_id=f"t{n}", reply=reply(f"0.{n}")) for n in range(1, 8)])
    found = await costs_of(kept.log, tenant_id="default", by="task", limit=2)
    assert ([item.key for item in found.items], found.omitted) == (["t7", "t6"], 5)
    assert (found.total.calls, found.total.cost_usd) == (7, Decimal("2.8"))


AMOUNTS = st.decimals(min_value=0, max_value=1_000_000, places=12, allow_nan=False, allow_infinity=False)


@settings(max_examples=20)  # each in a log of its own, with the sums of several agents
@given(costs=st.lists(st.lists(AMOUNTS, min_size=1, max_size=30), min_size=5, max_size=8))
def test_sums_are_exact_to_the_last_digit(costs: list[list[Decimal]]) -> None:
    async def check() -> None:
        async with open_log_in_memory() as kept:
            of_all = [(f"agent-{n}", cost) for n, of_one in enumerate(costs) for cost in of_one]
            await kept.write(
                [
                    call(n, request(user=user), reply=reply(str(cost)))
                    for n, (user, cost) in enumerate(of_all, start=1)
                ]
            )
            found = {user: total.cost_usd for user, total in (await sums(kept)).items()}
            assert found == {f"agent-{n}": sum(of_one) for n, of_one in enumerate(costs)}

    asyncio.run(check())


def open_log_in_memory() -> Any:
    return open_log(None)  # type: ignore[arg-type]


def test_the_row_of_a_call_keeps_what_its_event_says() -> None:
    asked = request("b", "a", "b", task_id="t", thread_id="talk", attempt=1, step=2)
    one = call(1, asked, reply=reply("0.000000000001"), latency_ms=1.5)
    row = dict(zip(COLUMNS, row_of(one, 7.0), strict=True))
    assert (row["tags"], row["cost_pico"], row["latency_ms"]) == ('["b","a"]', 1, 1.5)
    assert (row["time"], row["thread_id"], row["attempt"], row["step"]) == (7.0, "talk", 1, 2)
    assert [row[name] for name in COLUMNS if name.endswith("_tokens")] == [100, 40, 10, 4]
    assert (row["model"], row["model_group"], row["cost_source"]) == ("big-1", "fast", "priced")


# Times


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("24h", START - timedelta(hours=24)),
        ("90s", START - timedelta(seconds=90)),
        ("5m", START - timedelta(minutes=5)),
        ("7d", START - timedelta(days=7)),
        ("2w", START - timedelta(weeks=2)),
        ("2026-01-01T00:00Z", datetime(2026, 1, 1, tzinfo=UTC)),
        ("2026-01-01", datetime(2026, 1, 1, tzinfo=UTC)),
        ("2026-01-01T02:00:00+02:00", datetime(2026, 1, 1, tzinfo=UTC)),
    ],
)
def test_a_time_is_said_as_people_do(text: str, time: datetime) -> None:
    assert since_of(text, START) == time


@pytest.mark.parametrize("text", ["", "yesterday", "24", "h", "-1h", "1h30m", "9999999h", "999999w", "²h"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        since_of(text, START)
    assert refused.value.field == "since"


def test_a_call_of_a_task_is_hashed_as_journals_have_it() -> None:
    """A journal knows a step by a hash of its request: another one would refuse the tasks that are open."""
    context = CallContext(
        budget_usd=Decimal("1.50"),
        budgets_above=(TaskBudget(task_id="above", limit_usd=Decimal(3)),),
        task_id="t1",
        agent_id="writer",
        attempt=1,
        step=2,
    )
    asked = ModelRequest(messages=(), user="writer", context=context)
    assert to_json(asked).partition(b'"metadata":')[2] == (
        b'{"budget_usd":"1.50","budgets_above":[{"task_id":"above","limit_usd":"3"}],"task_id":"t1",'
        b'"agent_id":"writer","tenant_id":"default","attempt":1,"step":2},"tools":[],"tool_choice":"auto",'
        b'"response_schema":null,"temperature":0.0,"max_tokens":1024,"timeout_seconds":120.0,"cache":true}'
    )
