"""The inbox: what waits for people, made from the log alone."""

from datetime import timedelta
from typing import Any

import pytest

from meshwright.core.encoding import encode
from meshwright.core.errors import InvalidInput
from meshwright.core.events import Event
from meshwright.engine.events.inbox import Inbox, Question, question_id
from meshwright.engine.events.tasks import PRUNED
from meshwright.engine.sql.database import Session
from tests.support.event_logs import START, LogOnFile, event
from tests.support.task_events import about, accepted, dispatched, ended

SCHEMA = {"type": "object", "properties": {"approve": {"type": "boolean"}}}


def key(task_id: str, path: str = "1", attempt: int = 1, generation: int = 1) -> str:
    return f"steps/{task_id}/{generation}/{attempt}/{path}"


def waiting(task_id: str, path: str = "1", attempt: int = 1, **fields: Any) -> Event:
    told = {"kind": "person", "asked": f"May {path}?", "attempt": attempt, **fields}
    return about(task_id, "task.waiting", {"key": key(task_id, path, attempt), **told})


def wait_ended(task_id: str, path: str = "1", attempt: int = 1, how: str = "answered") -> Event:
    told = {"kind": "person", "how": how, "answered_by": "ann" if how == "answered" else None}
    return about(task_id, "wait.ended", {"key": key(task_id, path, attempt), **told})


def begun(task_id: str, attempt: int = 1) -> list[Event]:
    return [accepted(task_id), dispatched(task_id, attempt)]


async def questions(store: LogOnFile, **wanted: Any) -> list[Question]:
    return list((await Inbox(store.log).page("default", **wanted)).items)


async def test_a_question_holds_all_that_an_answer_needs(store: LogOnFile) -> None:
    fields = {
        "subject": {"kind": "approval", "tool": "deploy"},
        "answer_schema": SCHEMA,
        "may_answer": ["ann"],
        "expires_at": START + timedelta(days=7),
    }
    await store.write([*begun("t-1"), waiting("t-1", **fields)])
    [question] = await questions(store)
    assert question.id == question_id("default", key("t-1"))
    assert (question.wait_id, question.task_id, question.agent_id) == (key("t-1"), "t-1", "writer")
    assert (question.question, question.status, question.since.year) == ("May 1?", "open", 2030)
    assert question.subject == fields["subject"] and question.answer_schema == SCHEMA
    assert question.may_answer == ("ann",) and question.expires_at == fields["expires_at"]


async def test_doubts_are_listed_before_all_that_is_older_page_by_page(store: LogOnFile) -> None:
    paths = ("1", "2", "3", "0.1", "0.b.2")
    await store.write([*begun("t-1"), *(waiting("t-1", path) for path in paths)])
    listed, cursor = list[str](), None
    while True:
        page = await Inbox(store.log).page("default", limit=1, cursor=cursor)
        listed += [question.question for question in page.items]
        if (cursor := page.cursor) is None:
            break
    assert listed == ["May 0.1?", "May 0.b.2?", "May 1?", "May 2?", "May 3?"]
    by_age = await questions(store, with_ended=True, limit=4)
    assert [question.question for question in by_age] == ["May 1?", "May 2?", "May 3?", "May 0.1?"]


async def test_what_was_answered_or_has_expired_leaves_the_list_and_says_how(store: LogOnFile) -> None:
    paths = {"1": "answered", "2": "expired", "b1.1": "open"}
    await store.write([*begun("t-1"), *(waiting("t-1", path) for path in paths)])
    await store.write([wait_ended("t-1", path, how=how) for path, how in paths.items() if how != "open"])
    assert [question.question for question in await questions(store)] == ["May b1.1?"]
    everything = await questions(store, with_ended=True)
    assert {question.wait_id: question.status for question in everything} == {
        key("t-1", path): how for path, how in paths.items()
    }
    assert everything[0].answered_by == "ann" and everything[0].ended_at is not None


@pytest.mark.parametrize(
    "end",
    [[ended("t-1", "cancelled")], [about("t-1", "attempt.failed", {"attempt": 1}), dispatched("t-1", 2)]],
)
async def test_what_its_task_no_longer_needs_is_closed(store: LogOnFile, end: list[Event]) -> None:
    await store.write([*begun("t-1"), waiting("t-1"), *end])
    assert await questions(store) == []
    assert [question.status for question in await questions(store, with_ended=True)] == ["closed"]


async def test_the_next_attempt_asks_for_itself(store: LogOnFile) -> None:
    await store.write([*begun("t-1"), waiting("t-1"), dispatched("t-1", 2), waiting("t-1", attempt=2)])
    assert [question.wait_id for question in await questions(store)] == [key("t-1", attempt=2)]


async def test_a_question_says_whom_it_reached_first(store: LogOnFile) -> None:
    reached = [
        about("t-1", "question.reached", {"key": key("t-1"), "by": by}) for by in ("channel support", "ann")
    ]
    await store.write([*begun("t-1"), waiting("t-1"), waiting("t-1", "2"), *reached])
    first, second = await questions(store)
    assert (first.reached_by, first.reached_at) == ("channel support", reached[0].time)
    assert (second.reached_by, second.reached_at) == (None, None)
    await store.write([wait_ended("t-1")])
    [ended_question, _] = await questions(store, with_ended=True)
    assert (ended_question.status, ended_question.reached_by) == ("answered", "channel support")


def claimed(by: str, minutes: float, path: str = "1") -> Event:
    """A claim of ten minutes, some minutes after the start."""
    at = START + timedelta(minutes=minutes)
    payload = {"key": key("t-1", path), "by": by, "until": (at + timedelta(minutes=10)).isoformat()}
    return about("t-1", "question.claimed", payload).model_copy(update={"time": at})


def released(by: str) -> Event:
    return about("t-1", "question.released", {"key": key("t-1"), "by": by})


async def owner(store: LogOnFile) -> tuple[str | None, timedelta | None]:
    """The caller who has claimed the first question, and how long after the start that ends."""
    [first, *_] = await questions(store, with_ended=True)
    return first.claimed_by, first.claimed_until and first.claimed_until - START


async def test_the_first_of_two_claims_counts_until_it_ends(store: LogOnFile) -> None:
    await store.write([*begun("t-1"), waiting("t-1"), waiting("t-1", "2")])
    assert await owner(store) == (None, None)
    await store.write([claimed("ada", 0), claimed("bob", 0)])  # in one commit
    assert await owner(store) == ("ada", timedelta(minutes=10))
    await store.write([claimed("bob", 9), claimed("ada", 9), claimed("bob", 12)])  # ada renews it
    assert await owner(store) == ("ada", timedelta(minutes=19))
    await store.write([claimed("bob", 19)])
    assert await owner(store) == ("bob", timedelta(minutes=29))
    assert (await questions(store))[1].claimed_by is None
    [question, _] = await questions(store)
    assert question.at(START + timedelta(minutes=28)) == question
    assert question.at(START + timedelta(minutes=29)).claimed_by is None


async def test_a_claim_ends_by_its_owner_and_with_the_question(store: LogOnFile) -> None:
    await store.write([*begun("t-1"), waiting("t-1"), claimed("ada", 0), released("bob")])
    assert (await owner(store))[0] == "ada"
    await store.write([released("ada")])
    assert await owner(store) == (None, None)
    await store.write([claimed("bob", 1), wait_ended("t-1"), claimed("ada", 20)])
    assert await owner(store) == (None, None)
    before = await questions(store, with_ended=True)
    await store.log.rebuild()
    assert await questions(store, with_ended=True) == before


async def test_an_end_that_arrives_before_its_question_counts(store: LogOnFile) -> None:
    await store.write([*begun("t-1"), wait_ended("t-1"), waiting("t-1")])
    assert await questions(store) == []
    [question] = await questions(store, with_ended=True)
    assert (question.status, question.question) == ("answered", "May 1?")


async def test_only_questions_for_people_of_the_tenant_are_listed(store: LogOnFile) -> None:
    other = waiting("t-2").model_copy(update={"tenant_id": "acme"})
    foreign = [about("t-1", "task.waiting", payload) for payload in ({}, "x", {"kind": "person", "key": 7})]
    odd = about("t-1", "task.waiting", {"kind": "person", "key": "k", "expires_at": "soon", "subject": 3})
    await store.write([*begun("t-1"), waiting("t-1", kind="task"), other, *foreign, odd])
    assert await questions(store) == []
    assert sorted(await Inbox(store.log).tenants()) == ["acme", "default"]


async def test_questions_are_found_by_an_end_of_their_ids_or_of_their_tasks(store: LogOnFile) -> None:
    await store.write([event for n in range(5) for event in (*begun(f"t-{n}"), waiting(f"t-{n}"))])
    wanted = question_id("default", key("t-3"))
    for part in (wanted, wanted[-6:], wanted[:8], "t-3", "-3"):
        assert [question.task_id for question in await questions(store, id=part)] == ["t-3"], part
    assert await questions(store, id="%") == []
    pages = [await Inbox(store.log).page("default", limit=2)]
    while pages[-1].cursor:
        pages.append(await Inbox(store.log).page("default", limit=2, cursor=pages[-1].cursor))
    assert [question.task_id for page in pages for question in page.items] == [f"t-{n}" for n in range(5)]
    with pytest.raises(InvalidInput):
        await Inbox(store.log).page("default", cursor="x")


async def test_next_question_of_a_thread_may_be_of_a_delegated_task(store: LogOnFile) -> None:
    inbox = Inbox(store.log)
    for_money = waiting("above", "0", kind="money", subject={"on_empty": "ask"})
    await store.write(
        [*begun("above"), for_money, *begun("t-1"), *begun("t-2"), waiting("t-2"), waiting("t-1")]
    )
    found = [await inbox.next_question("default", f"thread-{name}") for name in ("above", "t-1", "ghost")]
    assert [question and question.task_id for question in found] == ["t-2", "t-1", None]
    assert await inbox.next_question("acme", "thread-above") is None
    await store.write([wait_ended("t-2")])
    following = await inbox.next_question("default", "thread-above")
    assert following is not None and following.task_id == "t-1"


async def test_a_rebuild_makes_the_same_inbox(store: LogOnFile) -> None:
    await store.write([*begun("t-1"), waiting("t-1"), waiting("t-1", "2"), wait_ended("t-1")])
    before = await questions(store, with_ended=True)
    await store.log.rebuild()
    assert await questions(store, with_ended=True) == before and len(before) == 2


async def test_questions_leave_with_pruned_tasks(store: LogOnFile) -> None:
    money = {
        "kind": "money",
        "asked": "More?",
        "subject": {"kind": "money", "account": "day", "on_empty": "ask"},
    }
    await store.write([*begun("t-1"), waiting("t-1"), *begun("t-2"), waiting("t-2"), waiting("t-1", **money)])
    pruned = event(9, PRUNED, payload={"count": 1, "tasks": ["t-1"]})
    await store.write([ended("t-1"), pruned, *begun("t-3"), waiting("t-3"), *begun("t-1")])
    await store.write([waiting("t-1", "2")])  # the id is that of another task now
    left = await questions(store, with_ended=True)
    assert [question.question for question in left if question.task_id == "t-1"] == ["More?", "May 2?"]
    assert {question.task_id for question in left} == {"t-1", "t-2", "t-3"}
    rows = await store.rows("SELECT count(*) FROM inbox WHERE account IS NOT NULL")
    assert rows == [(1,)]  # other tasks may wait for the same budget


async def test_items_of_parts_from_an_earlier_version_are_forgotten(store: LogOnFile) -> None:
    asked = event(1, "item.asked", payload={"key": "mcp/own/1", "asked": "May it?", "answer_schema": SCHEMA})
    refused = event(2, "deployment.refused", payload={"deployment": "quick", "status": 401})
    await store.write([asked, refused, *begun("t-1"), waiting("t-1")])
    before = await questions(store, with_ended=True)
    assert [question.task_id for question in before] == ["", "t-1"]

    def as_before(session: Session) -> None:
        """Have the rows that the first version had, one of an event that is in the log no more."""
        for seq, wait_id in ((-1, "mcp/old/7"), (1, "mcp/own/1")):
            item = before[0].model_copy(update={"id": f"i{seq}", "seq": seq, "wait_id": wait_id})
            values = (item.id, seq, "default", "", 0, 0, None, None, encode(item).decode(), 1)
            session.execute(f"INSERT INTO inbox VALUES ({', '.join('?' * 10)})", values)
        session.execute("UPDATE projection_positions SET version = 1 WHERE name = 'inbox'", ())

    await store.database.write(as_before)
    await store.write(begun("t-2"))
    assert await questions(store, with_ended=True) == before
    assert await Inbox(store.log).refused() == [("quick", 401)]
