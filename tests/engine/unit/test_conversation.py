"""The conversation of a thread: each task's words once, in order, and the latest of them at hand."""

from __future__ import annotations

from meshwright.engine.kernel.turns import ActorKind
from meshwright.engine.work.conversation import Conversation, Recent, TaskMessages, ThreadMessage
from tests.support.turn_driver import Driven


def a_conversation() -> Driven:
    return Driven(ActorKind.of(Conversation), "default:talk")


def said(task_id: str, content: str = "Hello.") -> TaskMessages:
    return TaskMessages(
        task_id=task_id, messages=(ThreadMessage(role="user", content=content, task_id=task_id),)
    )


def recent(talk: Driven) -> list[str]:
    return [message.task_id for message in Recent.model_validate(talk.take("recent").reply).messages]


def test_what_was_said_is_kept_in_order_and_numbered_on() -> None:
    talk = a_conversation()
    for task_id in ("a", "b"):
        talk.take("add", said(task_id))
    assert recent(talk) == ["a", "b"]
    records = [record for commit in talk.commits for record in commit.records]
    assert [(record.n, record.value["task_id"]) for record in records] == [(1, "a"), (2, "b")]


def test_a_task_that_ends_again_adds_nothing() -> None:
    talk = a_conversation()
    for task_id in ("a", "b", "a"):
        talk.take("add", said(task_id))
    assert recent(talk) == ["a", "b"]


def test_the_state_holds_the_latest_within_bounds() -> None:
    talk = a_conversation()
    for n in range(50):
        talk.take("add", said(f"t{n}", "x" * 5_000))
    assert recent(talk)[-1] == "t49"
    assert len(talk.head.state) < 70_000
    talk.take("add", said("large", "x" * 100_000))
    assert recent(talk) == ["large"]


def pair(task_id: str, answer: str, *, is_open: bool = False) -> TaskMessages:
    return TaskMessages(
        task_id=task_id,
        messages=(
            ThreadMessage(role="user", content=f"{task_id}?", task_id=task_id, is_open=is_open),
            ThreadMessage(role="assistant", content=answer, task_id=task_id, is_open=is_open),
        ),
    )


def contents(talk: Driven) -> list[str]:
    return [message.content for message in Recent.model_validate(talk.take("recent").reply).messages]


def test_an_open_request_gets_its_answer_in_its_place_where_nothing_was_said_since() -> None:
    talk = a_conversation()
    for said_now in (pair("a", "open", is_open=True), pair("a", "still", is_open=True), pair("a", "yes")):
        talk.take("add", said_now)
    assert contents(talk) == ["a?", "yes"]


def test_an_open_request_that_others_followed_is_answered_at_the_end() -> None:
    talk = a_conversation()
    for said_now in (pair("a", "open", is_open=True), pair("b", "no"), pair("a", "yes"), pair("a", "again")):
        talk.take("add", said_now)
    later = ["The answer is further below.", "b?", "no", 'The answer to the earlier request "a?":', "yes"]
    assert contents(talk) == ["a?", *later]
