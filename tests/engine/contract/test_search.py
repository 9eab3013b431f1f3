"""The search in the texts of tasks, on each database: what it finds, shows, and forgets."""

import asyncio
from typing import Any

from meshwright.core.events import Event
from meshwright.core.messages import Dispatch, Fault, Task
from meshwright.core.topics import MESH
from meshwright.engine.events.tasks import PRUNED, TaskPage
from tests.support.event_logs import START, LogOnFile, event
from tests.support.task_events import CARD, about, ended, names, progress

KEY = "sk-proj-Zx81kQ7vTn3mWc5yBh2uLd9eRf4gJa6s"


def dispatched(task_id: str, text: str, tenant_id: str = "default") -> Event:
    task = Task(
        task_id=task_id,
        capability="writing",
        payload={"text": text},
        deadline_at=START,
        created_at=START,
        thread_id=task_id,
        tenant_id=tenant_id,
        requested_by="ann",
    )
    payload = Dispatch.wrap(task, attempt=1, agent_id="writer", score_card=CARD)
    return about(task_id, "task.dispatched", payload, tenant_id=tenant_id)


def asks(task_id: str, key: str, question: str) -> Event:
    return progress(task_id, "task.waiting", key=key, kind="person", asked=question)


async def search(store: LogOnFile, text: str, **fields: Any) -> TaskPage:
    return await store.log.tasks(tenant_id="default", text=text, **fields)


async def match(store: LogOnFile, text: str) -> tuple[str, tuple[str, ...]]:
    """The place at which the only task with a text has it."""
    [task] = (await search(store, text)).items
    assert task.match is not None
    return task.match.of, task.match.pieces


async def test_each_text_of_a_task_is_found_and_shown(store: LogOnFile) -> None:
    late = "The crane is broken. " * 30
    await store.write([dispatched("a", "Unload the \u26f5 ship"), asks("a", "k1", "Which dock?")])
    assert await match(store, "SHIP unload") == ("request", ("", "Unload", " the \u26f5 ", "ship", ""))
    assert await match(store, "dock") == ("question", ("Which ", "dock", "?"))
    await store.write([asks("a", "k2", "Which crane?"), about("a", "run.title", {"title": "The Vasa"})])
    assert (await match(store, "vasa"))[0] == "request" and (await match(store, "dock"))[0] == "question"
    error = Fault(type="ToolFailed", message=late)
    await store.write([ended("a", "failed", error=error)])
    of, pieces = await match(store, '"crane is broken"')
    assert (of, pieces[1], pieces[-1][-1]) == ("error", "crane is broken", "\u2026")
    assert (await match(store, "toolfailed ship"))[0] in ("request", "error")
    await store.write([ended("a", result={"text": "Done at \u6e2f\u53e3 <b>nine</b>"}, generation=2)])
    assert await match(store, "\u6e2f\u53e3") == ("answer", ("Done at ", "\u6e2f\u53e3", " <b>nine</b>"))
    assert await names(store, text="broken") == []  # what the task ended with before a retry
    assert (await store.log.tasks(tenant_id="default")).items[0].match is None


async def test_pages_of_a_search_go_from_the_newest_task_to_the_oldest(store: LogOnFile) -> None:
    await store.write([dispatched(f"t{number}", "paint the fence") for number in range(7)])
    await store.write([dispatched("other", "paint the fence", tenant_id="acme"), ended("t3")])
    task_ids, cursor = list[str](), None
    while page := await search(store, "fence", limit=3, cursor=cursor):
        task_ids += [task.task_id for task in page.items]
        if (cursor := page.cursor) is None:
            break
    assert task_ids == [f"t{number}" for number in reversed(range(7))]
    assert await names(store, text="fence", order="changed", status="succeeded") == ["t3"]
    assert len(await names(store, text="fence", order="changed")) == 7


async def test_secrets_are_not_found(store: LogOnFile) -> None:
    await store.write(
        [dispatched("a", f"Log in with {KEY} today"), ended("a", result={"text": f"{KEY} is bad"})]
    )
    assert await names(store, text=KEY) == await names(store, text="zx81*") == []
    assert await match(store, "today") == ("request", ("Log in with [redacted] ", "today", ""))


async def test_a_task_that_leaves_the_lists_is_found_no_more(store: LogOnFile) -> None:
    await store.write([dispatched("a", "red"), dispatched("b", "red"), ended("a"), ended("b")])
    assert await names(store, text="red") == ["b", "a"]
    pruned = event(
        9, event_type=PRUNED, topic=MESH, tenant_id="default", payload={"count": 1, "tasks": ["a"]}
    )
    await store.write([pruned])
    assert await names(store, text="red") == ["b"]
    assert await store.rows("SELECT request FROM task_texts") == [("red",)]
    await store.log.rebuild()
    assert await names(store, text="red") == ["b"]


async def test_texts_are_indexed_in_the_background_and_a_search_says_what_is_missing(
    store: LogOnFile,
) -> None:
    await store.write([dispatched("a", "red")])
    await store.log.flush()

    async def position() -> int:
        return (await store.rows("SELECT seq FROM task_texts_position"))[0][0]

    async with asyncio.timeout(60):
        while await position() < 1:
            await asyncio.sleep(0.05)
    assert await store.rows("SELECT request FROM task_texts") == [("red",)]
    many = [dispatched(f"t{number}", f"blue {number}") for number in range(3_000)]
    await store.write(many)
    page = await search(store, "blue")
    while page.unindexed:
        assert page.unindexed % 100 == 0 and len(page.items) <= 50
        page = await search(store, "blue")
    assert [task.task_id for task in page.items[:2]] == ["t2999", "t2998"]
