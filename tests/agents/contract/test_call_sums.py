"""Calls of tasks whose records are gone are sums, which cost what the calls did."""

from __future__ import annotations

import random
from datetime import datetime, timedelta
from decimal import Decimal
from itertools import count
from typing import Any

import pytest

from meshwright.core.events import Event
from meshwright.engine.events.filter import TaskFilter
from meshwright.engine.events.log import EventLog
from meshwright.engine.events.tasks import RECORDS_PRUNED
from meshwright.models.port import Call
from meshwright.money.costs import CostQuery, Costs, sum_costs
from meshwright.parts.figures.sums import CallSums, DaySum
from tests.support.event_logs import START, LogOnFile, event, open_log
from tests.support.postgres import Location

ROWS = (
    "SELECT * FROM calls ORDER BY seq",
    "SELECT * FROM call_sums ORDER BY seq, time, agent_id, tags, model, deployment, prompt",
)
MINUTE = 60
BLOCK = 2048


def call(number: int, task_id: str | None, **fields: Any) -> Event:
    """A call half an hour after the one before."""
    known: dict[str, Any] = {
        "call_id": f"c{number}",
        "user": f"agent-{number % 2}",
        "model": ("big", "small", "")[number % 3],
        "deployment": ("east", "west", "east", None)[number % 4],
        "prompt": ("writer@8cbdd5fb6f84 prompts/writer.prompt", "reader@757f4d1c94fe", None)[number % 3],
        "tags": (("cheap",), ("cheap", "de"), ())[number % 3],
        "usage": {"prompt_tokens": 100 + number, "completion_tokens": 7, "cached_tokens": 40},
        "cost_usd": None if number % 5 == 0 else Decimal(number) / 1000,
        "cost_source": "estimated" if number % 4 == 0 else "priced",
        "outcome": "failed" if number % 7 == 0 else "ok",
    }
    payload = Call.model_validate({**known, **fields}).payload()
    return event(number * 30 * MINUTE, "model.called", task_id=task_id, payload=payload)


def gone(*task_ids: str) -> Event:
    return event(10**6, RECORDS_PRUNED, payload={"count": len(task_ids), "tasks": list(task_ids)})


async def costs(log: EventLog) -> list[Costs]:
    queries = [
        *(CostQuery("default", by) for by in ("agent", "model", "prompt", "tag", "tenant", "agent,model")),
        CostQuery("default", "deployment"),
        CostQuery(None, "agent", bucket="hour"),
        CostQuery("default", "model", bucket="day"),
        CostQuery("default", "agent", of=TaskFilter(agent_id="agent-1", model="big")),
        CostQuery("default", "agent", of=TaskFilter(prompt="writer")),
    ]
    return [await sum_costs(log, query) for query in queries]


async def tables(store: LogOnFile) -> list[list[tuple[Any, ...]]]:
    await store.log.flush()
    return [await store.rows(query) for query in ROWS]


async def test_costs_stay_as_calls_become_sums(store: LogOnFile) -> None:
    await store.write([call(number, f"t{number % 6}") for number in range(1, 60)])
    before = await costs(store.log)
    await store.write([gone("t1", "t2"), gone("t3", "unknown")])
    assert await costs(store.log) == before
    rows, sums = await tables(store)
    assert len(rows) == 29 and 0 < len(sums) <= 30
    by_task = await sum_costs(store.log, CostQuery("default", "task"))
    assert {item.key for item in by_task.items} == {"t0", "t4", "t5", None}
    of_thread = CostQuery("default", of=TaskFilter(thread_id="talk"))
    assert (await sum_costs(store.log, of_thread)).total.calls == 0
    await store.write([gone("t0", "t4", "t5")])
    assert await costs(store.log) == before
    assert (await tables(store))[0] == []


def brute_force(calls: list[Event], since: datetime | None, until: datetime | None) -> tuple[int, Decimal]:
    """How many calls ended between two times, and their cost."""
    within = [
        call for call in calls if (not since or call.time >= since) and (not until or call.time < until)
    ]
    costs = [Decimal(str(call.fields["cost_usd"] or 0)) for call in within]
    return len(within), sum(costs, Decimal(0))


async def test_sums_of_hours_and_the_calls_beside_them_are_those_of_all_calls(store: LogOnFile) -> None:
    chance = random.Random(0)
    calls = [call(number, f"t{number % 6}") for number in range(1, 40)]
    await store.write(calls)
    times = [START + timedelta(minutes=10 * chance.randrange(140)) for _ in range(40)]
    bounds = [(None, None), *((since, None) for since in times), *((None, until) for until in times)]
    bounds += [(since, until) for since in times[:20] for until in times[20:] if since < until]
    for tenant_id in ("default", None):
        for since, until in bounds:
            found = (await sum_costs(store.log, CostQuery(tenant_id, "agent", since, until))).total
            assert (found.calls, found.cost_usd or 0) == brute_force(calls, since, until), (since, until)


async def test_a_tenant_sums_its_own_calls_alone(store: LogOnFile) -> None:
    await store.write([call(1, "t"), call(2, "t").model_copy(update={"tenant_id": "other"})])
    await store.write([gone("t").model_copy(update={"tenant_id": "other"})])
    rows, sums = await tables(store)
    assert len(rows) == len(sums) == 1
    assert (await sum_costs(store.log, CostQuery("other"))).total.cost_usd == Decimal("0.002")


async def test_a_cost_that_is_unknown_stays_unknown(store: LogOnFile) -> None:
    await store.write([call(5, "t"), call(5, "u", call_id="d")])
    await store.write([gone("t")])
    assert (await sum_costs(store.log, CostQuery("default"))).total.cost_usd is None
    await store.write([gone("u"), call(5, "v", call_id="e", cost_usd=Decimal(1)), gone("v")])
    total = (await sum_costs(store.log, CostQuery("default"))).total
    assert (total.cost_usd, total.unpriced, total.calls) == (Decimal(1), 2, 3)


@pytest.mark.parametrize("at_once", [1, 7, 1000])
async def test_sums_are_the_same_however_events_are_cut(location: Location, at_once: int) -> None:
    numbers = count(1)
    events = [call(next(numbers), f"t{task}") for _ in range(4) for task in range(10)]
    events[25:25] = [gone("t1", "t2")]
    events[35:35] = [gone("t3"), gone("t4")]
    async with open_log(location / "at once") as store:
        await store.write(events)
        expected = await tables(store)
    async with open_log(location / "cut") as store:
        for start in range(0, len(events), at_once):
            await store.write(events[start : start + at_once])
            await store.log.flush()
        assert await tables(store) == expected
        await store.log.rebuild()
        assert await tables(store) == expected


async def test_sums_outlive_their_events_and_a_rebuild(store: LogOnFile) -> None:
    calls = [call(number, f"t{number % 6}") for number in range(1, 60)]
    await store.write([*calls, *(event(number, "app.noted") for number in range(BLOCK - 30))])
    await store.write([gone("t1")])
    await store.write([call(number, "late") for number in range(60, 70)])
    before = await costs(store.log)
    assert await store.log.prune(max_events=20) > 2000
    await store.log.rebuild()
    assert await costs(store.log) == before
    await store.write([gone("t2", "t3", "late")])
    assert await costs(store.log) == before
    [_, sums] = await tables(store)
    assert {row[0] for row in sums} == {0, 2 * BLOCK - 1}  # one of all that is pruned, one of a block
    await store.log.rebuild()
    assert await costs(store.log) == before


async def test_sums_of_the_day_follow_calls_that_were_cut_off(store: LogOnFile) -> None:
    cut = {"outcome": "cut", "cost_usd": Decimal("0.1")}
    now = START + timedelta(hours=23)
    late, early = CallSums(store.log), CallSums(store.log)
    await early.refresh(now)
    await store.write([call(2, "t", **cut), call(4, "t"), call(6, None, **cut)])
    await early.refresh(now)
    await store.write([call(8, "t", call_id="c2"), call(10, None, call_id="c6", **cut)])
    await early.refresh(now)
    await late.refresh(now)
    day = DaySum(calls=3, unpriced=0, cost_pico=112 * 10**9)  # $0.008 in place of $0.1, $0.004, $0.1
    assert {**early.today} == {**late.today} == {("default", "agent-0"): day}
    await store.write([gone("t"), call(12, None, call_id="c6")])
    latest = CallSums(store.log)
    for sums in (early, late, latest):
        await sums.refresh(now)
        day = DaySum(calls=3, unpriced=0, cost_pico=24 * 10**9)
        assert {**sums.today} == {("default", "agent-0"): day}
    for sums in (early, latest):
        await sums.refresh(now + timedelta(days=1))
        assert {**sums.today} == {}
