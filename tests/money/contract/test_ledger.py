"""The ledger has a row for every call of a model, and its sums are exact."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from meshwright.core.errors import InvalidInput
from meshwright.core.events import Event
from meshwright.core.messages import Usage
from meshwright.engine.events.filter import TaskFilter
from meshwright.models.port import Call
from meshwright.money.costs import COLUMNS, Cost, CostQuery, cost_row, parse_since, sum_costs
from tests.support.event_logs import START, LogOnFile, event, open_log
from tests.support.postgres import Location

ROWS = "SELECT * FROM calls ORDER BY seq"


def asked(*tags: str, user: str = "writer", **fields: Any) -> dict[str, Any]:
    return {"group": "fast", "tags": tags, "user": user, **fields}


def answered(cost: str | None = "0.25", **fields: Any) -> dict[str, Any]:
    usage = Usage(prompt_tokens=100, completion_tokens=10, cached_tokens=40, reasoning_tokens=4)
    known: dict[str, Any] = {"model": "big-1", "usage": usage, "cost_source": "priced"}
    return {**known, "cost_usd": None if cost is None else Decimal(cost), **fields}


LIMITED = {"outcome": "failed", "error": "RateLimited", "cost_usd": Decimal(0), "cost_source": "priced"}


def call(
    number: int,
    request: dict[str, Any] | None = None,
    task_id: str | None = "t",
    reply: dict[str, Any] | None = None,
) -> Event:
    """The event of the `number`-th call, one second after the one before."""
    fields = {**(request or asked("cheap")), **(reply or answered())}
    payload = Call(call_id=f"c{number}", **fields).payload()
    return event(number, "model.called", task_id=task_id, payload=payload)


async def sums(store: LogOnFile, by: Any = "agent", **wanted: Any) -> dict[str | None, Cost]:
    found = await sum_costs(store.log, CostQuery(**{"tenant_id": "default", "by": by, **wanted}))
    return {item.key: item for item in found.items}


# A call and its event


def test_the_payload_of_a_call_is_the_call() -> None:
    made = Call(call_id="c", tags=("a",), cost_usd=Decimal("0.0000084"), step=3, latency_ms=12.5)
    payload = made.payload()
    fields = payload.model_dump(mode="json")
    assert fields["duration_ms"] == fields["latency_ms"]
    assert fields["cost_usd"] == "0.0000084"
    assert "attempt" not in fields
    assert Call.model_validate(fields).payload() == payload


# Rows


async def test_each_call_is_a_row_however_it_ended(store: LogOnFile) -> None:
    saved = answered("0", cache_hit=True, saved_usd=Decimal("0.25"))
    no_price = {"outcome": "cancelled", "error": "CancelledError"}
    await store.write(
        [
            call(1),
            call(2, reply=LIMITED),
            call(3, reply=no_price),
            call(4, reply=saved),
            call(5, asked("compression", user="llm-service"), task_id=None, reply=answered(attempts=3)),
        ]
    )
    await sums(store)
    rows = await store.rows(
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
async def test_nothing_in_an_event_keeps_the_ledger_from_its_sums(store: LogOnFile, payload: Any) -> None:
    nonsense = [event(n, "model.called", agent_id="odd", payload=payload) for n in range(1, 4)]
    await store.write([*nonsense, call(4)])
    for by in ("agent", "tag", "model", "task", "tree", "tenant"):
        found = await sum_costs(store.log, CostQuery("default", by))
        assert (found.total.calls, found.total.cost_usd) == (4, Decimal("0.25"))
        assert found.total.unpriced == 3


async def test_a_call_of_an_earlier_version_is_a_row_too(store: LogOnFile) -> None:
    usage = {"prompt_tokens": 7, "completion_tokens": 3}
    old = {"model": "m", "group": "fast", "tags": ["a"], "user": "w", "usage": usage, "cost_usd": 1.5e-05}
    await store.write([event(1, "model.called", task_id="t", payload={**old, "tool_calls": [], "step": 2})])
    assert (await sums(store, "model"))["m"].cost_usd == Decimal("0.000015")


async def tables(store: LogOnFile) -> list[tuple[Any, ...]]:
    await sums(store)
    return await store.rows(ROWS)


def some_calls(count: int) -> list[Event]:
    replies = [answered(None), {"outcome": "failed"}, answered("0.1")]
    return [
        call(n, asked("a", "b", user=f"agent-{n % 3}"), reply=replies[n % 3]) for n in range(1, count + 1)
    ]


async def test_the_ledger_is_made_from_the_log_alone_however_and_whenever(location: Location) -> None:
    events = some_calls(1500)
    async with open_log(location / "at once") as store:
        await store.write(events)
        expected = await tables(store)
        for spoil in ("DELETE FROM calls WHERE seq > 7", "UPDATE calls SET cost_pico = 7"):
            await store.database.write(lambda connection, spoil=spoil: connection.execute(spoil).rowcount)
            await store.log.rebuild()
            assert await tables(store) == expected
    for start in range(0, len(events), 500):
        async with open_log(location / "broken") as store:
            await store.write(events[start : start + 500])  # and nobody asks before the end
    async with open_log(location / "broken") as store:
        assert await tables(store) == expected
    assert len(expected) == 1500


async def test_a_file_from_before_the_ledger_gets_one(location: Location) -> None:
    async with open_log(location) as store:
        await store.write(some_calls(3))
        expected = await tables(store)
        await store.database.write(lambda connection: connection.execute("DELETE FROM calls").rowcount)
        await store.database.write(
            lambda connection: connection.execute("UPDATE projection_positions SET version = 0").rowcount
        )
    async with open_log(location) as store:
        assert await tables(store) == expected


async def test_a_row_outlives_its_event(store: LogOnFile) -> None:
    await store.write([call(1)])
    await store.write([event(n) for n in range(2, 2200)])
    assert await store.log.prune(max_events=10) > 0
    await store.log.rebuild()
    assert (await sums(store))["writer"].cost_usd == Decimal("0.25")


# Sums


async def test_costs_are_summed_up_by_whatever_they_were_for(store: LogOnFile) -> None:
    await store.write(
        [
            call(1, asked("cheap", "research", "cheap", user="a"), task_id="t1", reply=answered("0.1")),
            call(2, asked("research", user="b"), task_id="t1", reply=answered("0.2", model="big-2")),
            call(3, asked(user="b"), task_id=None, reply=LIMITED),
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
        found = await sums(store, by)
        assert {key: item.cost_usd for key, item in found.items()} == {
            key: Decimal(cost) for key, cost in expected.items()
        }
        assert list(found) == list(expected)
    total = (await sum_costs(store.log, CostQuery("default", "tag"))).total
    assert (total.calls, total.failed, total.cost_usd) == (3, 1, Decimal("0.3"))
    assert (total.prompt_tokens, total.cached_tokens, total.completion_tokens) == (200, 80, 20)


async def test_a_price_that_nobody_knows_is_never_nothing(store: LogOnFile) -> None:
    await store.write([call(1, asked(user="known")), call(2, asked(user="unknown"), reply=answered(None))])
    found = await sums(store)
    assert (found["known"].cost_usd, found["known"].unpriced) == (Decimal("0.25"), 0)
    assert (found["unknown"].cost_usd, found["unknown"].unpriced) == (None, 1)
    total = (await sum_costs(store.log, CostQuery("default"))).total
    assert (total.cost_usd, total.unpriced) == (Decimal("0.25"), 1)


async def test_an_empty_ledger_comes_to_nothing(store: LogOnFile) -> None:
    found = await sum_costs(store.log, CostQuery("default"))
    assert (found.items, found.omitted, found.total.calls, found.total.saved_usd) == ((), 0, 0, 0)


async def test_what_the_cache_saved_is_counted_as_saved_and_not_as_spent(store: LogOnFile) -> None:
    await store.write([call(1, reply=answered("0", cache_hit=True, saved_usd=Decimal("0.25")))])
    [cost] = (await sums(store)).values()
    assert (cost.cost_usd, cost.saved_usd, cost.cache_hits) == (0, Decimal("0.25"), 1)


async def test_costs_since_a_time_leave_out_what_was_before(store: LogOnFile) -> None:
    await store.write([call(n) for n in range(1, 6)])
    found = await sums(store, since=START + timedelta(seconds=4))
    assert found["writer"].calls == 2


async def test_a_tenant_sees_its_own_costs_alone(store: LogOnFile) -> None:
    await store.write([call(1), call(2, asked(tenant_id="acme", user="spy"), reply=answered("0.75"))])
    for by in ("agent", "tag", "model", "task", "tree", "tenant"):
        mine, theirs = await sums(store, by), await sums(store, by, tenant_id="acme")
        assert sum(item.calls for item in mine.values()) == sum(item.calls for item in theirs.values()) == 1
        assert [item.cost_usd for item in theirs.values()] == [Decimal("0.75")]
    assert await sums(store, tenant_id="nobody") == {}


async def test_a_long_list_ends_with_the_dearest_and_its_total_is_of_all(store: LogOnFile) -> None:
    await store.write([call(n, task_id=f"t{n}", reply=answered(f"0.{n}")) for n in range(1, 8)])
    found = await sum_costs(store.log, CostQuery("default", "task"), limit=2)
    assert ([item.key for item in found.items], found.omitted) == (["t7", "t6"], 5)
    assert (found.total.calls, found.total.cost_usd) == (7, Decimal("2.8"))


async def test_a_series_has_a_row_for_each_hour_and_pair_of_keys(store: LogOnFile) -> None:
    hour = 3600  # calls are a second apart
    written = [(0, "a"), (1, "b"), (hour, "a"), (hour + 1, "a"), (25 * hour, "b")]
    await store.write([call(n, asked(user=user), reply=answered("0.5")) for n, user in written])
    hours = await sum_costs(store.log, CostQuery("default", "agent,model", bucket="hour"))
    shown = [(item.time, item.key, item.key2, item.calls, item.cost_usd) for item in hours.items]
    first, later = START + timedelta(hours=1), START + timedelta(hours=25)
    assert shown == [
        (START, "a", "big-1", 1, Decimal("0.5")),
        (START, "b", "big-1", 1, Decimal("0.5")),
        (first, "a", "big-1", 2, Decimal("1.0")),
        (later, "b", "big-1", 1, Decimal("0.5")),
    ]
    assert (hours.by, hours.bucket, hours.omitted, hours.total.calls) == ("agent,model", "hour", 0, 5)
    days = await sum_costs(store.log, CostQuery("default", "model,agent", bucket="day"), limit=2)
    assert [(item.time, item.key, item.key2, item.calls) for item in days.items] == [
        (START, "big-1", "a", 3),
        (START, "big-1", "b", 1),
    ]
    assert days.omitted == 1


async def test_a_tree_of_tasks_costs_what_all_its_tasks_cost(store: LogOnFile) -> None:
    parents = {"low": "middle", "middle": "top", "top": None, "orphan": "pruned"}
    await store.write(
        [
            event(
                n,
                "task.accepted",
                task_id=task_id,
                payload={"capability": "writing", "parent_task_id": above},
            )
            for n, (task_id, above) in enumerate(parents.items())
        ]
    )
    tasks = [*parents, "alone", None]
    await store.write([call(10 + n, task_id=task_id) for n, task_id in enumerate(tasks)])
    of_trees = await sums(store, "tree")
    assert {root: cost.calls for root, cost in of_trees.items()} == {
        "top": 3,
        "pruned": 1,
        "alone": 1,
        None: 1,
    }
    assert of_trees["top"].cost_usd == Decimal("0.75")
    later = await sums(store, "tree", since=START + timedelta(seconds=12), tenant_id="default")
    assert later["top"].calls == 1


async def test_a_list_of_tasks_is_of_the_newest_calls_and_its_total_of_all(store: LogOnFile) -> None:
    newest = 10_000
    dear = call(0, task_id="dear", reply=answered("9"))
    late = [call(n, task_id=f"t{n % 2}") for n in range(1, newest + 1)]
    await store.write([dear, *late])
    for by in ("task", "tree"):
        costs = await sum_costs(store.log, CostQuery("default", by))
        assert {item.key: item.calls for item in costs.items} == {"t0": newest // 2, "t1": newest // 2}
        assert costs.listed_since == START + timedelta(seconds=1)
        assert (costs.total.calls, costs.total.cost_usd) == (newest + 1, Decimal("2509"))
    every = await sum_costs(store.log, CostQuery("default", "task", until=START + timedelta(seconds=newest)))
    assert {item.key for item in every.items} == {"dear", "t0", "t1"}
    assert every.listed_since is None


async def test_a_bound_within_an_hour_of_many_calls_counts_the_whole_hour(store: LogOnFile) -> None:
    many = 10_000
    half = timedelta(minutes=30)
    calls = [
        replace(call(number), time=START + half * (number > many) + timedelta(milliseconds=number + 1_000))
        for number in range(2 * many + 2)
    ]
    await store.write([*calls, replace(call(2 * many + 2), time=START + timedelta(hours=2))])
    since = CostQuery("default", since=START + half)
    for tenant_id in ("default", None):
        costs = await sum_costs(store.log, since._replace(tenant_id=tenant_id, by="agent"))
        assert (costs.since, costs.counted_since) == (START + half, START)
        assert costs.total.calls == costs.items[0].calls == 2 * many + 3
    until = await sum_costs(store.log, CostQuery("default", until=START + half))
    assert (until.counted_until, until.total.calls) == (START + timedelta(hours=1), 2 * many + 2)
    within = CostQuery("default", since=START + timedelta(seconds=1), until=START + half)
    both = await sum_costs(store.log, within)
    assert (both.counted_since, both.counted_until) == (START, START + timedelta(hours=1))
    few = CostQuery("default", since=START + half + timedelta(milliseconds=many + 1_002))
    exact = await sum_costs(store.log, few)
    assert (exact.counted_since, exact.counted_until, exact.total.calls) == (None, None, many + 1)
    of_task = await sum_costs(store.log, since._replace(of=TaskFilter(thread_id="t")))
    assert of_task.counted_since is None


async def test_costs_of_tasks_by_requester_capability_and_status(store: LogOnFile) -> None:
    accepted = [
        event(
            n,
            "task.accepted",
            task_id=f"t{n}",
            tenant_id=tenant_id,
            payload={"capability": capability, "requested_by": requester},
        )
        for n, (tenant_id, capability, requester) in enumerate(
            [("default", "writing", "ann"), ("default", "reading", "ben"), ("acme", "writing", "ann")]
        )
    ]
    calls = [call(10 + n, task_id=f"t{n}") for n in range(2)]
    await store.write([*accepted, *calls, call(12, task_id="t2").model_copy(update={"tenant_id": "acme"})])
    for fields, count in (
        ({"requested_by": "ann"}, 1),
        ({"capability": "reading"}, 1),
        ({"status": "accepted"}, 2),
        ({"status": "failed"}, 0),
        ({"capability": "writing", "requested_by": "ben"}, 0),
    ):
        own = await sum_costs(store.log, CostQuery("default", of=TaskFilter(**fields)))
        assert own.total.calls == count, fields
    for tenant_id, tasks in (("default", {"t0"}), ("acme", {"t2"}), (None, {"t0", "t2"})):
        anns = await sum_costs(store.log, CostQuery(tenant_id, "task", of=TaskFilter(requested_by="ann")))
        assert {item.key for item in anns.items} == tasks


async def test_until_leaves_out_what_ended_then_or_later(store: LogOnFile) -> None:
    await store.write([call(n) for n in (1, 2, 3)])
    second = START + timedelta(seconds=2)
    for known, calls in (
        ({"until": second}, 1),
        ({"since": second}, 2),
        ({"since": second, "until": second}, 0),
    ):
        assert (await sum_costs(store.log, CostQuery("default", **known))).total.calls == calls


@pytest.mark.parametrize("by", ["mood", "agent,mood", "agent,agent", "agent,", "", "agent,tag,model"])
async def test_costs_are_summed_by_one_or_two_known_keys(store: LogOnFile, by: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        await sum_costs(store.log, CostQuery("default", by))
    assert refused.value.field == "by"


AMOUNTS = st.decimals(min_value=0, max_value=1_000_000, places=12, allow_nan=False, allow_infinity=False)


@settings(max_examples=20)  # each in a log of its own, with the sums of several agents
@given(costs=st.lists(st.lists(AMOUNTS, min_size=1, max_size=30), min_size=5, max_size=8))
def test_sums_are_exact_to_the_last_digit(costs: list[list[Decimal]]) -> None:
    async def check() -> None:
        async with open_log_in_memory() as store:
            of_all = [(f"agent-{n}", cost) for n, of_one in enumerate(costs) for cost in of_one]
            await store.write(
                [
                    call(n, asked(user=user), reply=answered(str(cost)))
                    for n, (user, cost) in enumerate(of_all, start=1)
                ]
            )
            found = {user: total.cost_usd for user, total in (await sums(store)).items()}
            assert found == {f"agent-{n}": sum(of_one) for n, of_one in enumerate(costs)}

    asyncio.run(check())


def open_log_in_memory() -> Any:
    return open_log(None)  # type: ignore[arg-type]


def test_the_row_of_a_call_keeps_what_its_event_says() -> None:
    request = asked("b", "a", "b", thread_id="talk", attempt=1, step=2)
    one = call(1, request, reply=answered("0.000000000001", latency_ms=1.5))
    row = dict(zip(COLUMNS, cost_row(one, 7.0), strict=True))
    assert (row["tags"], row["cost_pico"], row["latency_ms"]) == ('["b","a"]', 1, 1.5)
    assert (row["time"], row["thread_id"], row["attempt"], row["step"]) == (7.0, "talk", 1, 2)
    assert [row[name] for name in COLUMNS if name.endswith("_tokens")] == [100, 40, 10, 4]
    assert (row["model"], row["model_group"], row["cost_source"]) == ("big-1", "fast", "priced")


def cut_off(number: int, cost: str, *, is_guess: bool) -> Event:
    """An account, or the run that resumes, finds that the first call was cut off."""
    known = {"outcome": "cut", "cost_usd": Decimal(cost), "cost_source": "estimated"}
    payload = Call(call_id="c1", **asked("cheap"), **known).payload()
    aggregate_id = "budget-account/pot:mesh" if is_guess else "clerk/default:t"
    return event(number, "model.called", task_id="t", payload=payload, aggregate_id=aggregate_id)


def answered_after_all(number: int) -> Event:
    """The first call has its answer, though an account took it for cut off by a clock set forward."""
    payload = Call(call_id="c1", **asked("cheap"), **answered()).payload()
    return event(number, "model.called", task_id="t", payload=payload)


def answered_by_a_frozen_process(number: int) -> Event:
    """The first call has its answer in a process that slept for longer than its lease."""
    payload = Call(call_id="c1", **asked("cheap"), **answered(latency_ms=5_000.0)).payload()
    return event(number, "model.called", task_id="t", payload=payload)


@pytest.mark.parametrize(
    ("found", "cost"),
    [
        ([cut_off(1, "2", is_guess=True)], "2"),
        ([cut_off(1, "2", is_guess=True), cut_off(2, "1", is_guess=False)], "1"),
        ([cut_off(1, "1", is_guess=False), cut_off(2, "2", is_guess=True)], "1"),
        ([call(1), cut_off(2, "2", is_guess=True)], "0.25"),
        ([cut_off(1, "2", is_guess=True), answered_after_all(2)], "0.25"),
        ([cut_off(1, "2", is_guess=True), answered_by_a_frozen_process(2)], "0.25"),
        ([cut_off(1, "1", is_guess=False), answered_by_a_frozen_process(2)], "0.25"),
    ],
)
@pytest.mark.parametrize("together", [True, False])
async def test_a_call_that_was_cut_off_has_one_row_that_its_run_knows_best(
    store: LogOnFile, found: list[Event], cost: str, together: bool
) -> None:
    for events in [found] if together else [[one] for one in found]:
        await store.write(events)
        assert (await sums(store))["writer"].calls == 1
    assert (await sums(store))["writer"].cost_usd == Decimal(cost)


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
    assert parse_since(text, START) == time


@pytest.mark.parametrize("text", ["", "yesterday", "24", "h", "-1h", "1h30m", "9999999h", "999999w", "²h"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        parse_since(text, START)
    assert refused.value.field == "since"
