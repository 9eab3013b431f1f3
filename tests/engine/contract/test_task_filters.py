"""Tasks, events and costs are found by the same fields of tasks, on each database."""

import asyncio
import random
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from msgspec.structs import replace

from meshwright.core.errors import InvalidInput
from meshwright.core.events import Event
from meshwright.core.messages import Dispatch, Parent, Task
from meshwright.core.money import from_pico
from meshwright.engine.events.filter import EventFilter, TaskFilter
from meshwright.engine.events.table import BLOCK_EVENTS
from meshwright.engine.events.task_lists import TaskOrder, known_values
from meshwright.engine.events.tasks import PRUNED, RECORDS_PRUNED
from meshwright.engine.sql.database import Session
from meshwright.models.port import Call
from meshwright.money.costs import CostQuery, sum_costs
from meshwright.money.task_costs import TaskTree, task_tree
from tests.support.event_logs import START, LogOnFile, event
from tests.support.task_events import CARD, about, ended, names


def dispatched(
    task_id: str, text: str = "", parent: str | None = None, *, agent_id: str = "writer", **fields: Any
) -> Event:
    above = None if parent is None else Parent(actor_type="a", actor_id="b", key="k", task_id=parent)
    known: dict[str, Any] = {"thread_id": f"thread-{task_id}", "requested_by": "ann", **fields}
    task = Task(
        task_id=task_id,
        capability="writing",
        payload={"text": text} if text else {"order": 17},
        deadline_at=START,
        created_at=START,
        parent=above,
        **known,
    )
    attempt = 1 if agent_id == "writer" else 2
    payload = Dispatch.wrap(task, attempt=attempt, agent_id=agent_id, score_card=CARD)
    return about(task_id, "task.dispatched", payload, tenant_id=known.get("tenant_id", "default"))


def called(task_id: str, cost: str | None, **fields: Any) -> Event:
    source = "unknown" if cost is None else "priced"
    known = {
        "user": "writer",
        "cost_usd": None if cost is None else Decimal(cost),
        "model": "big-1",
        **fields,
    }
    call = Call(call_id=f"call-{task_id}-{cost}", group="fast", cost_source=source, **known)
    return about(task_id, "model.called", call.payload())


TEXTS = {
    "a": "Pay the Invoice\nof May",
    "b": "100% a_b at https://shop.example/v2?order=RX-81 \u5728\u7ebfDocker\u90e8\u7f72\u9519\u8bef",
    "c": f"INVOICE {'y' * 2_000} of pay",
    "d": "",
    "e": "\u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35\u0e0a\u0e32\u0e27\u0e42\u0e25\u0e01 r\u00e9sum\u00e9 "
    "\u0939\u093f\u0928\u094d\u0926\u0940",
}
SEARCHES = {
    "invoice": "ca",
    "pay invoice": "ca",
    '"pay the invoice"': "a",
    '"invoice pay"': "",
    "inv*": "ca",
    "inv": "",
    '"pay the inv"*': "a",
    "100%": "b",
    "a_b": "b",
    "a b": "b",
    "shop.example": "b",
    "rx-81": "b",
    "order": "db",
    "\u9519\u8bef": "b",
    "\u7ebf": "b",
    "\u8bef\u9519": "",
    "docker \u90e8\u7f72*": "b",
    "\u0e0a\u0e32\u0e27": "e",
    "r\u00e9sum\u00e9": "e",
    "re\u0301sume\u0301": "e",
    "\u0939\u093f\u0928\u094d\u0926\u0940": "e",
    "%": "",
    '"': "",
    '"pay': "ca",
    "pay NOT invoice": "",
    "request : pay": "",
    "NEAR(pay invoice)": "",
    "pay* AND OR ( ) ' \\ \x00 :* <-> ! & | ^ {}": "",
    "'pay' & !invoice": "ca",
    "-pay ^pay +pay \\pay": "ca",
    "x " * 500: "",
    " ".join(f"w{number}" for number in range(200)): "",
    "y" * 900: "",
    f"{'y' * 900}*": "c",
}


async def test_tasks_are_found_by_words_phrases_and_beginnings(store: LogOnFile) -> None:
    await store.write([dispatched(task_id, words) for task_id, words in TEXTS.items()])
    for text, found in SEARCHES.items():
        assert "".join(await names(store, text=text)) == found, text
    with pytest.raises(InvalidInput, match="1,001 characters"):
        await names(store, text="x" * 1_001)


async def test_a_task_is_titled_by_the_first_line_of_its_request(store: LogOnFile) -> None:
    texts = {"a": "\n  Pay the invoice \nof May", "b": "w" * 200, "c": ""}
    await store.write([dispatched(task_id, words) for task_id, words in texts.items()])
    page = await store.log.tasks(tenant_id="default", limit=9)
    titles = {task.task_id: task.title for task in page.items}
    assert titles == {"a": "Pay the invoice", "b": f"{'w' * 119}…", "c": '{"order":17}'}


async def test_a_task_is_found_by_the_agent_that_took_it_over(store: LogOnFile) -> None:
    await store.write([dispatched(task_id) for task_id in "ab"])
    assert await names(store, agent_id="writer") == ["b", "a"]
    await store.write([dispatched("a", agent_id="editor", requested_by="bob")])
    assert await names(store, agent_id="editor") == await names(store, requested_by="bob") == ["a"]
    assert await names(store, agent_id="writer") == await names(store, requested_by="ann") == ["b"]


async def test_tasks_are_found_by_what_they_wait_for_now(store: LogOnFile) -> None:
    await store.write([dispatched(task_id) for task_id in "abcd"])
    for task_id, kind in (("a", "person"), ("b", "money"), ("c", "person")):
        waiting = {"attempt": 1, "key": f"{task_id}/1", "kind": kind}
        await store.write([about(task_id, "task.waiting", waiting)])
    assert await names(store, waits_for="person") == ["c", "a"]
    assert await names(store, waits_for="money") == ["b"]
    await store.write([ended("c")])
    assert await names(store, waits_for="person") == ["a"]


async def test_tasks_are_found_by_the_model_that_they_wait_for(store: LogOnFile) -> None:
    await store.write([dispatched(task_id) for task_id in "abcde"])
    models = {"a": ["fast", "fast/one", "back up"], "b": ["fast", "fast/two"], "c": ['say "fast"'], "d": None}
    for task_id, names_of_models in models.items():
        subject = {"error": "RateLimited"} | ({"models": names_of_models} if names_of_models else {})
        waiting = {"attempt": 1, "key": f"{task_id}/1", "kind": "provider", "subject": subject}
        await store.write([about(task_id, "task.waiting", waiting)])
    beside = {"attempt": 1, "key": "e/1", "kind": "person", "subject": {"models": ["fast"]}}
    await store.write([about("e", "task.waiting", beside)])
    for model, found in (("fast", "ba"), ("fast/one", "a"), ("back up", "a"), ('say "fast"', "c")):
        assert await names(store, waits_for_model=model) == [*found], model
    assert await names(store, waits_for_model="fast/") == await names(store, waits_for_model="%") == []
    assert await names(store, waits_for_model="fast", waits_for="person") == []
    assert await names(store, waits_for="provider") == ["d", "c", "b", "a"]
    await store.write([ended("b")])
    assert await names(store, waits_for_model="fast") == ["a"]


async def test_a_group_of_dead_letters_has_the_tasks_that_it_counts(store: LogOnFile) -> None:
    await store.write([dispatched(task_id) for task_id in "abcd"])
    await store.write([ended(task_id, "failed") for task_id in "ab"] + [ended("c", "cancelled")])

    def forget(session: Session) -> None:
        session.execute("UPDATE tasks SET agent_id = NULL WHERE task_id IN ('b', 'c')")

    await store.log.flush()
    await store.database.write(forget)
    assert await names(store, error="ToolFailed", dead=True) == ["b", "a"]
    assert await names(store, error="ToolFailed", lacks="agent_id", dead=True) == ["b"]
    assert await names(store, lacks="agent_id") == ["c", "b"]
    assert await names(store, lacks="agent_id", order="changed") == ["c", "b"]
    assert await names(store, lacks="error", dead=True) == await names(store, lacks="error", status="failed")
    assert await names(store, lacks="agent_id,error") == []
    assert await names(store, lacks="error") == ["d"]
    letters = await store.log.dead_letters(tenant_id="default")
    assert sorted((str(group.agent_id), group.tasks) for group in letters.items) == [
        ("None", 1),
        ("writer", 1),
    ]


async def test_tasks_are_listed_by_their_last_change(store: LogOnFile) -> None:
    await store.write([dispatched(task_id) for task_id in "abcde"])
    await store.write([ended("b"), ended("a")])
    assert await names(store, order="changed") == ["a", "b", "e", "d", "c"]
    assert await names(store, order="changed", status="dispatched") == ["e", "d", "c"]
    assert await names(store, open=True) == ["e", "d", "c"]
    page = await store.log.tasks(tenant_id="default", order="changed", limit=2)
    await store.write([ended("e")])  # it changes while somebody reads page by page
    rest = await store.log.tasks(tenant_id="default", order="changed", limit=9, cursor=page.cursor)
    assert [task.task_id for task in rest.items] == ["d", "c"]


async def test_a_thread_has_the_task_that_it_is_named_by_and_those_behind_it(store: LogOnFile) -> None:
    threads = {"a": "a", "b": "b", "c": "a", "d": "a", "e": "e"}
    events = [dispatched(task_id, thread_id=thread) for task_id, thread in threads.items()]
    await store.write([*events, ended("c"), called("a", "1", thread_id="a"), called("d", "2", thread_id="a")])
    await store.write([dispatched("f", thread_id="a", tenant_id="acme"), called("b", "4", thread_id="b")])

    async def pages(thread_id: str, order: TaskOrder) -> list[str]:
        task_ids, cursor = list[str](), None
        while page := await store.log.tasks(
            tenant_id="default", thread_id=thread_id, order=order, limit=2, cursor=cursor
        ):
            task_ids += [task.task_id for task in page.items]
            if (cursor := page.cursor) is None:
                return task_ids
        return task_ids

    assert (await pages("a", "created"), await pages("a", "changed")) == (["d", "c", "a"], ["c", "d", "a"])
    assert (await pages("e", "created"), await pages("none", "created")) == (["e"], [])
    costs = await sum_costs(store.log, CostQuery("default", of=TaskFilter(thread_id="a")))
    assert (costs.total.calls, costs.total.cost_usd) == (2, 3)


async def test_events_are_found_by_fields_of_their_tasks(store: LogOnFile) -> None:
    await store.write([dispatched("a", "red"), dispatched("b", "blue"), ended("a"), ended("b", "failed")])

    async def found(**fields: Any) -> list[int | None]:
        wanted = EventFilter(tenant_id="default", of_task=TaskFilter(**fields))
        return [event.seq for event in await store.log.query(wanted)]

    assert await found(text="red") == [1, 3]
    assert await found(status="failed") == await found(error="ToolFailed") == [2, 4]
    assert await found(thread_id="thread-a", status="failed") == []
    wanted = EventFilter(tenant_id="default", after_seq=2, of_task=TaskFilter(text="blue"))
    tail = store.log.follow(wanted)
    assert [event.seq for event in await anext(tail)] == [4]
    waiting = asyncio.ensure_future(anext(tail))
    await store.write([dispatched("c", "green")])
    await store.write([dispatched("d", "light blue")])
    assert [event.task_id for event in await waiting] == ["d"]
    await tail.aclose()


@pytest.mark.parametrize("many", [0, 1_100])
async def test_tasks_changed_since_a_time_are_found_behind_full_blocks(store: LogOnFile, many: int) -> None:
    """Some by their names, and many in the order of the list."""
    numbers = iter(range(1_000_000))

    async def write(*events: Event) -> datetime:
        """A block of others' events, and these behind them; returns the time of these."""
        await store.write([event(next(numbers)) for _ in range(BLOCK_EVENTS)])
        time = START + timedelta(seconds=next(numbers))
        await store.write([replace(one, time=time) for one in events])
        return time

    await write(dispatched("old"), dispatched("a"))
    await write(dispatched("b"))
    since = await write(dispatched("c"), ended("a"))
    others = [dispatched(f"x{number}", agent_id="other") for number in range(many)]
    await write(*others, dispatched("d"))

    async def found(order: TaskOrder, **fields: Any) -> list[str]:
        tasks = (await store.log.tasks(tenant_id="default", agent_id="writer", order=order, **fields)).items
        return [task.task_id for task in tasks]

    assert await found("created", since=since) == ["d", "c", "a"]
    assert await found("changed", since=since) == ["d", "a", "c"]
    assert await found("created", since=since + timedelta(seconds=1)) == ["d"]
    assert await found("created", since=START - timedelta(days=1)) == ["d", "c", "b", "a", "old"]
    assert await found("created", since=START + timedelta(days=1)) == []
    page = await store.log.dead_letters(tenant_id="default", since=since)
    assert page.items == ()
    before = since - timedelta(seconds=1)
    assert await found("created", until=before) == await found("changed", until=before) == ["b", "old"]
    assert await found("created", until=since) == ["c", "b", "a", "old"]
    assert await found("changed", until=since) == ["a", "c", "b", "old"]
    assert await found("created", until=START - timedelta(days=1)) == []
    assert await found("created", since=since, until=since) == ["c", "a"]
    await write(dispatched("e"))
    await store.write([replace(dispatched("late"), time=START)])  # in the block that is not full yet
    assert await found("created", until=before) == ["late", "b", "old"]


@pytest.mark.parametrize("many", [0, 1_100])
async def test_tasks_of_a_tag_and_of_a_model_are_found_however_many_others_have(
    store: LogOnFile, many: int
) -> None:
    """Few by their names, and many in the order of the list."""
    await store.write([dispatched(task_id) for task_id in "abc"])
    tags = {"a": ("rare", "fast"), "b": (), "c": ('say "rare"', "x")}
    await store.write([called(task_id, "1", tags=of_task) for task_id, of_task in tags.items()])
    await store.write([called("a", "2", tags=("fast",)), ended("b"), ended("a")])
    others = [f"x{number}" for number in range(many)]
    await store.write([dispatched(task_id, agent_id="other") for task_id in others])
    await store.write([called(task_id, "1", tags=("rare",)) for task_id in others])
    await store.log.flush()

    def name_models(session: Session) -> None:
        session.execute("UPDATE tasks SET model = 'small' WHERE task_id IN ('a', 'c')")
        session.execute("UPDATE tasks SET model = 'small' WHERE agent_id = 'other'")

    await store.database.write(name_models)

    async def found(order: TaskOrder = "created", **fields: Any) -> list[str]:
        tasks = (await store.log.tasks(tenant_id="default", order=order, limit=3, **fields)).items
        return [task.task_id for task in tasks]

    newest = others[:-4:-1]
    assert await found(tag="rare") == await found(tag="rare", order="changed") == (newest or ["a"])
    assert await found(tag="rare", agent_id="writer") == ["a"]
    assert await found(tag="fast", order="changed") == ["a"]
    assert await found(tag='say "rare"') == ["c"]
    assert await found(tag="say") == await found(tag="none") == []
    assert await found(model="small") == (newest or ["c", "a"])
    assert await found(model="small", agent_id="writer") == ["c", "a"]
    assert await found(model="small", order="changed", agent_id="writer") == ["a", "c"]
    assert await found(model="none") == []
    query = EventFilter(tenant_id="default", of_task=TaskFilter(tag="fast"))
    assert {event.task_id for event in await store.log.query(query)} == {"a"}


async def test_events_of_tasks_are_found_in_each_block_that_has_one(store: LogOnFile) -> None:
    others = iter(range(1_000_000))

    async def write(*events: Event) -> list[int]:
        """Events of others for a block, and these behind them; returns the numbers of these."""
        await store.write([event(next(others)) for _ in range(BLOCK_EVENTS)])
        return [event.seq or 0 for event in await store.write([*events])]

    first = await write(dispatched("a", requested_by="ben"), dispatched("x"))
    second = await write(dispatched("b", requested_by="ben"), ended("x"))
    third = await write(ended("a"), ended("b"))
    scored = await write(about("a", "score.given", {"name": "thumbs"}))
    await write(dispatched("y"))
    expected = [first[0], second[0], *third, *scored]

    async def found(**fields: Any) -> list[int | None]:
        query = EventFilter(tenant_id="default", of_task=TaskFilter(requested_by="ben"), **fields)
        return [event.seq for event in await store.log.query(query)]

    assert await found() == expected
    assert await found(order="desc") == expected[::-1]
    assert await found(order="desc", limit=2) == expected[:-3:-1]
    assert await found(after_seq=first[0], limit=2) == expected[1:3]
    assert await found(event_type="task.succeeded") == third


async def test_costs_are_summed_by_fields_of_the_call_and_of_its_task(store: LogOnFile) -> None:
    await store.write([dispatched("a", "red"), dispatched("b", "blue"), called("a", "1"), called("b", "2")])
    await store.write([ended("b", "failed"), called("b", "4", user="other")])

    async def total(**fields: Any) -> Decimal | None:
        query = CostQuery("default", of=TaskFilter(**fields))
        return (await sum_costs(store.log, query)).total.cost_usd

    assert await total(text="red") == 1
    assert await total(error="ToolFailed") == 6
    assert await total(error="ToolFailed", agent_id="other") == 4
    assert await total(agent_id="writer") == 3
    assert await total(model="big-1", requested_by="ann") == 7
    assert await total(model="big-2") is None


async def test_calls_are_found_by_the_deployments_where_they_ended_and_failed(store: LogOnFile) -> None:
    await store.write([dispatched("a")])
    calls: list[dict[str, Any]] = [
        {"deployment": "fast/one"},
        {
            "deployment": "fast/two",
            "failed_at": ("fast/one", "fast/one"),
            "failed_with": ("RateLimited",) * 2,
        },
        {"deployment": "fast/one", "outcome": "failed", "failed_at": ("fast/one",)},
        {"outcome": "failed", "model": "", "error": "ModelRefused"},  # of a group, no deployment is known
        {"deployment": "fast/one", "cache_hit": True},
        {"deployment": 'say "x"', "outcome": "cancelled"},
    ]
    for number, call in enumerate(calls):
        await store.write([called("a", str(number), **call)])
        await store.log.flush()  # apart: their events have one id
    cases: list[tuple[dict[str, Any], list[int]]] = [
        ({"deployment": "fast/one"}, [2, 3, 4]),
        ({"deployment": "fast/two"}, [3]),
        ({"deployment": 'say "x"'}, [7]),
        ({"failed_at": "fast/one"}, [3, 4]),
        ({"failed_at": "fast/two"}, []),
        ({"failed_at": "fast"}, [5]),
        ({"failed_at": 'say "x"'}, [7]),
        ({"deployment": "fast/two", "failed_at": "fast/one"}, [3]),
        ({"failed_at": "fast/one", "event_type": "task.dispatched"}, []),
        ({"failed_at": "%"}, []),
    ]
    for fields, numbers in cases:
        filter = EventFilter(tenant_id="default", **fields)
        for order in ("asc", "desc"):
            events = await store.log.query(filter.model_copy(update={"order": order}))
            assert sorted(event.seq or 0 for event in events) == numbers, fields
        tail = store.log.follow(filter.model_copy(update={"after_seq": 0}))
        if numbers:
            assert [event.seq for event in await anext(tail)] == numbers, fields
        await tail.aclose()


async def test_a_tail_of_failed_calls_gets_those_to_come(store: LogOnFile) -> None:
    tail = store.log.follow(EventFilter(tenant_id="default", failed_at="fast/one"))
    waiting = asyncio.ensure_future(anext(tail))
    await store.write([called("a", "1", deployment="fast/one"), dispatched("a")])
    await store.write([called("a", "2", deployment="fast/two", failed_at=("fast/one",))])
    assert [event.seq for event in await waiting] == [3]
    await tail.aclose()


OLD, NEW = "writer@0a1b2c3d4e5f", "writer@9f8e7d6c5b4a"


async def test_tasks_events_and_costs_are_found_by_the_prompt_of_a_call(store: LogOnFile) -> None:
    await store.write([dispatched(task_id) for task_id in "abcd"])
    file = "prompts/writer.prompt"
    places = {"a": f"{OLD} 111111111111:{file}", "b": f"{OLD} 222222222222:{file}"}  # of two commits
    places |= {"c": f"{NEW} 222222222222:{file}", "d": "writers@0a1b2c3d4e5f built-in"}
    await store.write([called(task_id, "1", prompt=place) for task_id, place in places.items()])
    await store.write([called("a", "4", prompt=NEW), called("a", "8"), ended("a", "failed")])
    for prompt, found in (
        ("writer", "cba"),
        (OLD, "ba"),
        ("writer@9f", "ca"),
        (f"writer@9F8E7D6C5B4A{'0' * 52}  prompts/writer.prompt", "ca"),  # as sha256sum prints it
        ("write", ""),
        ("writer_", ""),
        ("%", ""),
    ):
        assert await names(store, prompt=prompt) == [*found], prompt
    assert await names(store, prompt=NEW, status="failed") == ["a"]
    assert await names(store, prompt="writer", order="changed") == ["a", "c", "b"]
    wanted = EventFilter(tenant_id="default", event_type="task.failed", of_task=TaskFilter(prompt=NEW))
    assert [event.task_id for event in await store.log.query(wanted)] == ["a"]
    letters = await store.log.dead_letters(tenant_id="default", prompt=OLD)
    assert [group.tasks for group in letters.items] == [1]

    costs = await sum_costs(store.log, CostQuery("default", "prompt"))
    shown = {item.key: (item.calls, item.cost_usd) for item in costs.items}
    assert shown == {OLD: (2, 2), NEW: (2, 5), places["d"].split()[0]: (1, 1), None: (1, 8)}
    failed = TaskFilter(prompt="writer@9f", error="ToolFailed")
    costs = await sum_costs(store.log, CostQuery("default", "task", of=failed))
    assert [(item.key, item.cost_usd) for item in costs.items] == [("a", 4)]


async def test_tasks_and_costs_are_found_by_a_tag_of_a_call(store: LogOnFile) -> None:
    await store.write([dispatched(task_id) for task_id in "abc"])
    tags = {"a": ("research", 'big "one"'), "b": ("research", "cheap"), "c": ()}
    await store.write([called(task_id, "1", tags=own) for task_id, own in tags.items()])
    await store.write([called("a", "4", tags=("cheap",), prompt=NEW)])
    for tag, found, cost in (
        ("research", "ba", 2),
        ('big "one"', "a", 1),
        ("cheap", "ba", 5),
        ("one", "", None),
        ("%", "", None),
        ('"', "", None),
    ):
        assert await names(store, tag=tag) == [*found], tag
        query = CostQuery("default", of=TaskFilter(tag=tag))
        assert (await sum_costs(store.log, query)).total.cost_usd == cost, tag
    assert await names(store, tag="research", prompt=NEW) == []  # no call has both
    assert await names(store, tag="cheap", prompt=NEW) == ["a"]


async def test_an_unknown_prompt_is_told_apart_from_an_unknown_version(store: LogOnFile) -> None:
    await store.write([dispatched("a"), called("a", "1", prompt=f"{OLD} built-in"), called("a", "2")])
    await store.write([called("a", "3", prompt=f"{NEW} built-in"), called("a", "4", prompt="editor@77 x")])

    async def known(value: str, tenant_id: str | None = "default") -> Any:
        return await store.log.view(known_values, tenant_id, "prompt", value)

    assert await known("writer") is await known("writer@0a1b") is await known(OLD, None) is None
    assert await known("riter") == await known("riter@0a") == ["editor", "writer"]
    assert await known("writer@77") == [NEW, OLD]
    assert await known("writer", "other") == []


async def test_calls_of_before_are_found_by_their_prompt(store: LogOnFile) -> None:
    await store.write([dispatched("a"), called("a", "1", prompt=f"{OLD} built-in")])
    assert await names(store, prompt="writer") == ["a"]

    def unlearn(session: Session) -> None:
        session.execute("UPDATE calls SET prompt = NULL")
        session.execute("UPDATE projection_positions SET version = 1 WHERE name = 'calls'")

    await store.database.write(unlearn)
    await store.write([dispatched("b")])
    assert await names(store, prompt="writer") == ["a"]
    assert (await sum_costs(store.log, CostQuery("default"))).total.cost_usd == 1


async def test_a_value_is_known_once_a_task_had_it(store: LogOnFile) -> None:
    await store.write([dispatched("a", "red"), called("a", "1", user="gateway")])

    async def known(field: str, value: str, **of: Any) -> Any:
        return await store.log.view(known_values, "default", field, value, **of)

    assert await known("requested_by", "ann") is None
    assert await known("requested_by", "bob") == ["ann"]
    assert await known("parent_task_id", "a") is None  # a task that has delegated nothing
    assert await known("parent_task_id", "b") == []
    assert await known("agent_id", "gateway") == ["writer"]
    assert await known("agent_id", "gateway", of_calls=True) is None
    assert await store.log.view(known_values, "other", "requested_by", "ann") == []


async def test_a_tree_has_the_exact_costs_of_each_task_and_of_all_below(store: LogOnFile) -> None:
    tasks = [dispatched("r"), dispatched("a", parent="r"), dispatched("b", parent="r")]
    tasks += [dispatched("c", parent="a"), dispatched("x", parent="a", tenant_id="other")]
    await store.write([*tasks, called("r", "0.1"), called("c", "0.000000000001"), called("b", None)])
    await store.write([called("c", "0.2"), ended("c", "failed")])
    tree: TaskTree = await store.log.view_apart(task_tree, "default", "r")
    shown = [(node.task_id, node.depth, node.cost_usd, node.tree_cost_usd) for node in tree.items]
    small = Decimal("0.200000000001")
    assert shown == [
        ("r", 0, Decimal("0.1"), Decimal("0.1") + small),
        ("a", 1, Decimal(0), small),
        ("c", 2, small, small),
        ("b", 1, Decimal(0), Decimal(0)),
    ]
    assert [node.tree_unpriced for node in tree.items] == [1, 0, 0, 1]
    assert (tree.omitted, tree.is_whole) == (0, True)
    below: TaskTree = await store.log.view_apart(task_tree, "default", "a")
    assert [(node.task_id, node.parent_task_id) for node in below.items] == [("a", "r"), ("c", "a")]
    assert below.items[1].error == "ToolFailed"
    assert await store.log.view_apart(task_tree, "other", "r") is None


async def test_sums_of_trees_agree_with_their_calls_in_whatever_order_both_come_and_go(
    store: LogOnFile, rng: random.Random
) -> None:
    parents = {f"t{n}": f"t{(n - 1) // 3}" if n % 7 else None for n in range(60)}
    costs = {
        f"c{n}": (rng.choice([*parents]), rng.choice([None, "0.3", "0.000000000001"])) for n in range(180)
    }
    events = [dispatched(task_id, parent=parent) for task_id, parent in parents.items()]
    for call_id, (task_id, cost) in costs.items():
        fields = {"user": rng.choice(["writer", "other"]), "tags": ("fast",)}
        events.append(replace(called(task_id, cost, **fields), id=f"call/{call_id}"))
    rng.shuffle(events)
    for start in range(0, len(events), 37):
        await store.write(events[start : start + 37])
        await store.log.flush()

    async def check() -> None:
        await store.log.flush()
        calls = await store.rows(
            "SELECT task_id, coalesce(cost_pico, 0), cost_pico IS NULL, agent_id FROM calls"
        )
        above = dict(await store.rows("SELECT task_id, parent_task_id FROM tasks"))

        def is_below(task_id: str | None, root: str) -> bool:
            while task_id is not None and task_id != root:
                task_id = above.get(task_id)
            return task_id == root

        for root in ("t0", "t1", "t7", "t59"):
            tree = await store.log.view(task_tree, "default", root)
            if root not in above:
                assert tree is None
                continue
            rows = [row for row in calls if is_below(row[0], root)]
            assert (tree.items[0].tree_cost_usd, tree.items[0].tree_unpriced) == (
                from_pico(sum(row[1] for row in rows)),
                sum(map(bool, (row[2] for row in rows))),
            ), root
            assert {node.task_id for node in tree.items} == {name for name in above if is_below(name, root)}
            of = TaskFilter(parent_task_id=root, agent_id="other", tag="fast")
            of_children = [row for row in calls if above.get(row[0]) == root and row[3] == "other"]
            sums = (await sum_costs(store.log, CostQuery("default", by="agent,tag", of=of))).total
            assert (sums.calls, sums.cost_usd or 0) == (
                len(of_children),
                from_pico(sum(row[1] for row in of_children)),
            ), root

    await check()
    pruned = rng.sample([*parents], 15)
    await store.write([event(9, PRUNED, payload={"count": 15, "tasks": pruned}, tenant_id="default")])
    await check()
    await store.write([event(9, RECORDS_PRUNED, payload={"count": 15, "tasks": pruned}, tenant_id="default")])
    await check()

    def move(session: Session) -> None:
        session.execute("UPDATE tasks SET parent_task_id = NULL WHERE parent_task_id = 't1'")
        session.execute(
            "UPDATE tasks SET parent_task_id = 't7' WHERE parent_task_id = 't2' AND task_id <> 't7'"
        )
        session.execute("DELETE FROM calls WHERE seq % 3 = 0")

    await store.database.write(move)
    await check()
    await store.log.rebuild()
    await check()


async def test_a_large_tree_is_cut_and_its_costs_are_whole(store: LogOnFile) -> None:
    children = [dispatched(f"child{number}", parent="r") for number in range(600)]
    await store.write([dispatched("r"), *children, *(called(f"child{n}", "0.01") for n in range(600))])
    tree: TaskTree = await store.log.view_apart(task_tree, "default", "r")
    assert (len(tree.items), tree.omitted, tree.is_whole) == (500, 101, True)
    assert tree.items[0].tree_cost_usd == 6
    assert tree.items[0].created_at <= START + timedelta(seconds=1)
