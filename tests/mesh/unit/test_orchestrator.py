"""One task from acceptance to its one outcome, turn by turn."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from meshwright.core.capability import Capability, Registration
from meshwright.core.messages import Fault, Parent
from meshwright.engine.kernel.envelope import ActorRef
from meshwright.engine.kernel.turns import ActorKind
from meshwright.engine.work import Cancel
from meshwright.engine.work.protocol import Accept, Retry
from meshwright.mesh.orchestration.orchestrator import Orchestrator
from meshwright.mesh.orchestration.registry import Registry
from tests.support.turn_driver import NOW, Driven, a_task, an_outcome, types_of


def a_registry(*agents: str) -> Registry:
    registry = Registry()
    for weight, agent_id in enumerate(reversed(agents), start=1):
        capability = Capability("general-query", weight=weight / 20)
        registry.register(Registration(agent_id=agent_id, name=agent_id, capabilities=(capability,)))
    return registry


def an_orchestrator(*agents: str, task_id: str = "t1") -> Driven:
    return Driven(ActorKind.from_class(Orchestrator, registry=a_registry(*agents), max_attempts=3), task_id)


def failed(attempt: int, agent_id: str = "helper", error: str = "ToolFailed") -> object:
    fault = Fault(type=error, message="broken")
    return an_outcome(status="failed", attempt=attempt, agent_id=agent_id, error=fault)


def test_an_accepted_task_is_dispatched_to_the_best_agent_and_watched() -> None:
    task = an_orchestrator("best", "other")
    commit = task.take("accept", Accept.wrap(a_task()))
    assert (commit.reply.dispatched_to, commit.reply.status) == ("best", "dispatched")
    assert [(event.topic, event.event_type) for event in commit.events] == [
        ("task-progress", "task.accepted"),
        ("tasks.best", "task.dispatched"),
    ]
    assert task.head.wake_at == a_task().deadline_at
    assert task.head.has_pending_work


def test_a_task_that_waited_for_another_waits_for_an_agent_too() -> None:
    registry = a_registry("helper")
    task = Driven(ActorKind.from_class(Orchestrator, registry=registry, max_attempts=3), "t1")
    commit = task.take("accept", Accept.wrap(a_task(after="t0")))
    assert [(message.to.id, message.method) for message in commit.sends] == [("t0", "follow")]
    registry.set_problem("helper", "its database is away")
    assert types_of(task.take("begin")) == []
    assert task.head.wake_at == NOW + timedelta(seconds=5)
    registry.set_problem("helper", None)
    task.later(5)
    assert types_of(task.take("wake")) == ["task.dispatched"]
    assert task.head.wake_at == a_task().deadline_at


def test_a_success_is_the_outcome_and_the_alarm_is_cleared() -> None:
    task = an_orchestrator("helper")
    task.take("accept", Accept.wrap(a_task()))
    task.later(2)
    commit = task.take("settle", an_outcome(result={"text": "done"}))
    assert types_of(commit) == ["task.succeeded"]
    assert commit.events[0].payload["duration_ms"] == 2000
    assert task.head.wake_at is None
    assert not task.head.has_pending_work


def test_a_failed_attempt_goes_to_another_agent_at_most_three_times() -> None:
    task = an_orchestrator("a1", "a2", "a3", "a4")
    task.take("accept", Accept.wrap(a_task()))
    assert types_of(task.take("settle", failed(1, "a1"))) == ["attempt.failed", "task.dispatched"]
    assert types_of(task.take("settle", failed(2, "a2"))) == ["attempt.failed", "task.dispatched"]
    last = task.take("settle", failed(3, "a3"))
    assert types_of(last) == ["attempt.failed", "task.dead_lettered", "task.failed"]
    assert [attempt.agent_id for attempt in task.state.attempts] == ["a1", "a2", "a3"]


def test_each_choice_keeps_the_cards_of_those_that_were_not_chosen() -> None:
    task = an_orchestrator(*(f"a{number:02}" for number in range(13)))
    [_, dispatched] = task.take("accept", Accept.wrap(a_task())).events
    losers = [f"a{number:02}" for number in range(1, 11)]  # the best ten
    assert [card["agent_id"] for card in dispatched.payload["others"]] == losers
    assert [card.agent_id for card in task.state.attempts[0].others] == losers
    task.take("settle", failed(1, "a00"))
    assert [card.agent_id for card in task.state.attempts[1].others][:2] == ["a00", "a02"]


@pytest.mark.parametrize(("agents", "fields"), [(["a"], {}), (["a", "b"], {"agent_id": "a"})])
def test_a_choice_without_others_says_nothing_of_them(agents: list[str], fields: dict[str, Any]) -> None:
    task = an_orchestrator(*agents)
    [_, dispatched] = task.take("accept", Accept.wrap(a_task(**fields))).events
    assert "others" not in dispatched.payload
    assert b"others" not in task.head.state


def test_an_agent_that_failed_is_not_asked_again() -> None:
    task = an_orchestrator("only")
    task.take("accept", Accept.wrap(a_task()))
    assert "task.failed" in types_of(task.take("settle", failed(1, "only")))


def test_late_and_foreign_outcomes_change_nothing() -> None:
    task = an_orchestrator("a1", "a2")
    task.take("accept", Accept.wrap(a_task()))
    task.take("settle", failed(1, "a1"))
    assert not task.take("settle", an_outcome(attempt=1)).changed
    assert not task.take("settle", an_outcome(attempt=2, generation=9)).changed
    task.take("settle", an_outcome(attempt=2))
    assert not task.take("settle", failed(2)).changed
    assert task.state.outcome.success


def test_a_task_that_is_being_cancelled_is_not_tried_again_when_its_attempt_fails() -> None:
    task = an_orchestrator("a1", "a2")
    task.take("accept", Accept.wrap(a_task()))
    task.take("cancel", Cancel(task_id="t1"))
    assert types_of(task.take("settle", failed(1, "a1"))) == ["task.failed"]


def test_a_redrive_asks_the_agent_at_work_again_and_counts_as_no_dispatch() -> None:
    task = an_orchestrator("a1", "a2")
    task.take("accept", Accept.wrap(a_task()))
    task.take("settle", failed(1, "a1"))
    [_, dispatched] = task.commits[-1].events
    commit = task.take("redrive")
    [message] = commit.sends
    assert (message.to, message.method) == (ActorRef("a2", "default:t1"), "enqueue_again")
    assert message.body == dispatched.payload
    assert commit.events == []
    assert len(task.state.attempts) == 2


def test_a_redrive_of_a_task_that_is_being_cancelled_cancels_it_again() -> None:
    task = an_orchestrator("helper")
    task.take("accept", Accept.wrap(a_task()))
    task.take("cancel", Cancel(task_id="t1"))
    assert [message.method for message in task.take("redrive").sends] == ["enqueue_again", "cancel"]


def test_a_cancel_names_the_attempt_so_that_it_may_come_before_the_dispatch() -> None:
    task = an_orchestrator("helper")
    task.take("accept", Accept.wrap(a_task()))
    task.take("settle", an_outcome(status="cancelled"))
    task.take("retry", Retry())
    [message] = task.take("cancel", Cancel(task_id="t1")).sends
    named = {name: message.body[name] for name in ("task_id", "generation", "attempt", "capability")}
    assert named == {"task_id": "t1", "generation": 2, "attempt": 2, "capability": task.state.task.capability}


def test_a_redrive_of_a_task_that_has_ended_does_nothing() -> None:
    task = an_orchestrator("helper")
    task.take("accept", Accept.wrap(a_task()))
    task.take("settle", an_outcome())
    assert not task.take("redrive").changed


def test_a_repeated_request_for_a_task_that_has_ended_answers_its_parent_again() -> None:
    parent = Parent(actor_type="architect", actor_id="default:p", key="k", task_id="p")
    accept = Accept.wrap(a_task(parent=parent))
    task = an_orchestrator("helper")
    task.take("accept", accept)
    assert [message.method for message in task.take("settle", an_outcome()).sends] == ["resume"]
    assert [message.method for message in task.take("accept", accept).sends] == ["resume"]


def test_what_the_actor_sends_is_numbered_without_gaps() -> None:
    task = an_orchestrator("a1", "a2")
    task.take("accept", Accept.wrap(a_task()))
    task.take("settle", failed(1, "a1"))
    task.take("settle", an_outcome(attempt=2))
    sent = [sent.id for commit in task.commits for sent in (*commit.events, *commit.sends)]
    assert sorted(int(id.rsplit("/", 1)[1]) for id in sent) == list(range(1, len(sent) + 1))


def delegated(key: str, request_hash: str = "h") -> Accept:
    parent = Parent(actor_type="architect", actor_id="default:p", key=key, task_id="p")
    return Accept.wrap(a_task(parent=parent), request_hash=request_hash)


def withdrawn(key: str) -> Cancel:
    return Cancel(task_id="t1", parent_key=key)


def test_a_task_whose_wait_was_given_up_before_it_came_does_no_work() -> None:
    task = an_orchestrator("helper")
    task.take("cancel", withdrawn("k1"))
    commit = task.take("accept", delegated("k1"))
    assert types_of(commit) == ["task.cancelled"]
    assert [(send.method, send.body["key"]) for send in commit.sends] == [("resume", "k1")]


def test_a_task_that_another_wait_has_joined_is_not_cancelled_by_the_one_before() -> None:
    task = an_orchestrator("helper")
    task.take("accept", delegated("k1"))
    task.take("accept", delegated("k2"))
    assert types_of(task.take("cancel", withdrawn("k1"))) == []
    assert types_of(task.take("cancel", withdrawn("k2"))) == ["task.cancelling"]


def test_a_task_that_is_joined_and_given_up_while_it_ends_does_not_begin_again() -> None:
    task = an_orchestrator("helper")
    task.take("accept", delegated("k1"))
    task.take("cancel", withdrawn("k1"))
    task.take("accept", delegated("k2"))
    task.take("cancel", withdrawn("k2"))
    commit = task.take("settle", an_outcome(status="cancelled"))
    assert types_of(commit) == ["task.cancelled"]
    assert not task.head.has_pending_work


def test_another_request_for_a_delegated_task_is_answered_with_a_failure() -> None:
    task = an_orchestrator("helper")
    task.take("accept", delegated("k1"))
    commit = task.take("accept", delegated("k2", "other"))
    [answer] = commit.sends
    assert (answer.method, answer.body["key"]) == ("resume", "k2")
    assert answer.body["value"]["error"]["type"] == "IdempotencyConflict"
    assert types_of(task.take("settle", an_outcome())) == ["task.succeeded"]
