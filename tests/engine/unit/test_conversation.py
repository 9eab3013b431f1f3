"""The conversation of a thread: each task's words once, in order, and the latest of them at hand."""

from __future__ import annotations

from meshwright.engine.kernel.turns import ActorKind
from meshwright.engine.work.conversation import Conversation, Recent, TaskMessages, ThreadMessage
from tests.support.turn_driver import Driven


def a_conversation() -> Driven:
    return Driven(ActorKind.from_class(Conversation), "default:talk")


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


def test_a_long_pair_of_messages_leaves_room_for_those_before() -> None:
    talk = a_conversation()
    talk.take("add", said("first"))
    texts = [ThreadMessage(role="user", content="x" * 32_000, task_id="long")] * 2
    talk.take("add", TaskMessages(task_id="long", messages=tuple(texts)))
    assert recent(talk) == ["first", "long", "long"]


def summary(talk: Driven) -> tuple[int, str | None]:
    """How many messages there are, and of which task the first request is."""
    told = Recent.model_validate(talk.take("recent").reply)
    return told.total, told.first and told.first.task_id


def test_the_first_request_is_kept_and_all_messages_are_counted() -> None:
    talk = a_conversation()
    assert summary(talk) == (0, None)
    for said_now in (pair("a", "open", is_open=True), pair("a", "yes")):
        talk.take("add", said_now)
        assert summary(talk) == (2, "a")
    for n in range(60):
        talk.take("add", pair(f"t{n}", "no"))
    assert summary(talk) == (122, "a")
    talk.take("forget", "t59")
    assert summary(talk) == (120, "a")
    talk.take("forget", "a")
    assert summary(talk) == (120, None)
    assert "a?" not in str(talk.head.state)


def test_the_next_request_is_the_first_where_the_first_is_forgotten_early() -> None:
    talk = a_conversation()
    for said_now in (pair("a", "open", is_open=True), pair("b", "no")):
        talk.take("add", said_now)
    talk.take("forget", "a")
    assert summary(talk) == (2, "b")
    talk.take("forget", "b")
    assert summary(talk) == (0, None)
    talk.take("add", pair("c", "yes"))
    assert summary(talk) == (2, "c")


def test_a_first_request_is_kept_in_part_where_it_is_long() -> None:
    talk = a_conversation()
    talk.take("add", said("long", "x" * 20_000))
    for n in range(60):
        talk.take("add", pair(f"t{n}", "no"))
    told = Recent.model_validate(talk.take("recent").reply)
    assert told.first is not None and told.first.content.endswith("…")
    assert 7_000 < len(told.first.content) < 8_300


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
