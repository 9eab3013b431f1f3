"""The oracle of the fault tests sees what is wrong: loss, doubled ends, and damage of each kind."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from meshwright.engine.kernel.envelope import ActorRef
from meshwright.parts.proving.oracle import Evidence, RunCosts, complaints
from tests.support.faults import controls
from tests.support.faults.evidence import gather
from tests.support.faults.node import Job
from tests.support.faults.nodes import KILLED, Nodes
from tests.support.faults.plan import PLAN, judge


def test_the_oracle_reports_loss_where_a_client_counts_a_task_before_it_is_durable(
    nodes: Nodes, tmp_path: Path
) -> None:
    job = Job(str(tmp_path), PLAN, control=controls.ACK_ON_RECEIPT)
    assert nodes.run(replace(job, point="task.accept.uncommitted")) == KILLED
    lost = asyncio.run(gather(tmp_path, kills=1))
    assert len(lost.accepted) == len(PLAN)
    assert sum(complaint.startswith("lost: ") for complaint in complaints(lost)) == len(PLAN)


def test_the_oracle_reports_ends_that_no_fence_kept_out(nodes: Nodes, tmp_path: Path) -> None:
    assert nodes.run(Job(str(tmp_path), PLAN, control=controls.NO_FENCE)) == 0
    found = complaints(asyncio.run(gather(tmp_path)))
    assert sum("ended 2 times" in complaint for complaint in found) >= len(PLAN) - 1


def test_a_fence_keeps_out_the_second_end_of_a_worker_thought_dead(nodes: Nodes, tmp_path: Path) -> None:
    assert nodes.run(Job(str(tmp_path), PLAN, control=controls.ZOMBIES)) == 0
    evidence = judge(tmp_path, kills=0)
    assert len(evidence.select_events("work.discarded")) >= len(PLAN) - 1


DAMAGES: dict[str, Callable[[Evidence], Evidence]] = {
    "has no outcome": lambda seen: without(seen, "task.succeeded"),
    "has 2 outcomes": lambda seen: with_another(seen, "task.succeeded"),
    "was published twice": lambda seen: with_another(seen, "task.accepted"),
    "has a gap in its outbox at 1": lambda seen: without(seen, "task.accepted"),
    "its head knows of": lambda seen: with_heads(seen, sent=1),
    "published events, and no head": lambda seen: replace(seen, heads={}),
    "claims fence": lambda seen: with_another(seen, "task.started"),
    "ended 2 times": lambda seen: with_another(seen, "attempt.ended"),
    "of the same thread ran": lambda seen: without(seen, "attempt.ended", thread="clerk/default:shared"),
    "in the order of their arrival": lambda seen: swapped(
        seen, "task.started", thread="clerk/default:shared"
    ),
    "was journaled 2 times": lambda seen: with_another(seen, "model.called"),
    "model calls for": lambda seen: replace(seen, model_calls=seen.model_calls + 200, kills=4),
    "had its effect 2 times": lambda seen: replace(seen, effects=[("charge 1", "charge")] * 2),
    "claims": lambda seen: replace(seen, called=[*seen.called, *seen.called]),
    "counted twice": lambda seen: with_money(seen, ledger=2, budget=2),
    "not counted": lambda seen: with_money(seen, provider=2),
    "the budget": lambda seen: with_money(seen, budget=2),
    "recorded": lambda seen: replace(without(seen, "model.called"), money=EVEN),
    "were made up": lambda seen: replace(seen, model_calls=1),
    "still has something outstanding": lambda seen: with_heads(seen, has_pending_work=True),
    "messages were sent and never taken": lambda seen: replace(seen, undelivered=1),
    "is not listed": lambda seen: replace(seen, summaries=seen.summaries[1:]),
    "listed as": lambda seen: replace(
        seen, summaries=[seen.summaries[0].model_copy(update={"status": "running"}), *seen.summaries[1:]]
    ),
    "a client was told": lambda seen: replace(seen, reported=[(seen.accepted[0], "timed_out")]),
}


EVEN = RunCosts(provider=Decimal(1), ledger=Decimal(1), estimated=Decimal(0), budget=Decimal(1))


def with_money(seen: Evidence, **dollars: int) -> Evidence:
    changed = {name: Decimal(amount) for name, amount in dollars.items()}
    return replace(seen, money=replace(EVEN, **changed))


def with_another(seen: Evidence, event_type: str) -> Evidence:
    return replace(seen, events=[*seen.events, seen.select_events(event_type)[0]])


def without(seen: Evidence, event_type: str, thread: str = "") -> Evidence:
    gone = next(event for event in seen.select_events(event_type) if event.aggregate_id.startswith(thread))
    return replace(seen, events=[event for event in seen.events if event is not gone])


def swapped(seen: Evidence, event_type: str, thread: str) -> Evidence:
    one, other = (event for event in seen.select_events(event_type) if event.aggregate_id == thread)
    places = {id(one): other, id(other): one}
    return replace(seen, events=[places.get(id(event), event) for event in seen.events])


def with_heads(seen: Evidence, **changed: Any) -> Evidence:
    heads: dict[ActorRef, Any] = {ref: structs.replace(head, **changed) for ref, head in seen.heads.items()}
    return replace(seen, heads=heads)


@pytest.fixture(scope="module")
def unharmed(nodes: Nodes, tmp_path_factory: pytest.TempPathFactory) -> Evidence:
    folder = tmp_path_factory.mktemp("sound")
    assert nodes.run(Job(str(folder), PLAN)) == 0
    return judge(folder, kills=0)


@pytest.mark.parametrize("complaint", DAMAGES)
def test_the_oracle_reports_damage_of_each_kind(unharmed: Evidence, complaint: str) -> None:
    assert any(complaint in found for found in complaints(DAMAGES[complaint](unharmed)))


@pytest.mark.parametrize("is_repeat", [True, False])
def test_a_discarded_commit_of_who_holds_the_fence_is_damage_unless_it_was_written(
    unharmed: Evidence, is_repeat: bool
) -> None:
    """A worker whose connection ended behind its commit makes the commit again."""
    end = unharmed.select_events("attempt.ended")[0]
    held = {"fence": 1, "current": 1}
    discarded = structs.replace(end, id="again", event_type="work.discarded", payload=held)
    place = unharmed.events.index(end) + is_repeat
    found = complaints(
        replace(unharmed, events=[*unharmed.events[:place], discarded, *unharmed.events[place:]])
    )
    assert [one for one in found if "discards" in one] == (
        [] if is_repeat else ["again discards a commit of the worker that held the fence"]
    )
