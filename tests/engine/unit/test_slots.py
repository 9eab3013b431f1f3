"""The order in which a worker runs tasks."""

from __future__ import annotations

from meshwright.engine.kernel.envelope import ActorRef
from meshwright.engine.work import Offer, SlotTable
from meshwright.engine.work.slots import AGEING_SECONDS


def offer(
    task_id: str, tenant: str = "one", priority: int = 5, since: float = 0.0, agent: str = "helper"
) -> Offer:
    return Offer(ActorRef(agent, f"{tenant}:{task_id}"), task_id, tenant, priority, since)


def granted(table: SlotTable, count: int, agent: str = "helper") -> list[str | None]:
    offers = [table.grant(agent) for _ in range(count)]
    return [each.task_id if each else None for each in offers]


def test_no_more_is_granted_than_there_are_slots_until_one_is_released() -> None:
    table = SlotTable(lambda agent: 2)
    for name in "abc":
        table.offer(offer(name))
    assert granted(table, 3) == ["a", "b", None]
    table.release("helper")
    assert granted(table, 2) == ["c", None]


def test_each_agent_has_slots_of_its_own() -> None:
    table = SlotTable({"helper": 1, "other": 1}.__getitem__)
    table.offer(offer("a"))
    table.offer(offer("b", agent="other"))
    assert granted(table, 1) == ["a"]
    assert granted(table, 1, "other") == ["b"]


def test_a_tenant_with_many_tasks_delays_another_by_one() -> None:
    table = SlotTable(lambda agent: 9)
    for name in ("a1", "a2", "a3"):
        table.offer(offer(name, tenant="busy"))
    table.offer(offer("b1", tenant="quiet"))
    assert granted(table, 4) == ["a1", "b1", "a2", "a3"]


def test_the_higher_priority_goes_first_and_equals_in_order_of_arrival() -> None:
    table = SlotTable(lambda agent: 9)
    table.offer(offer("low", priority=1, since=0))
    table.offer(offer("first", priority=9, since=1))
    table.offer(offer("second", priority=9, since=2))
    assert granted(table, 3) == ["first", "second", "low"]


def test_waiting_raises_a_priority() -> None:
    table = SlotTable(lambda agent: 9)
    table.offer(offer("new", priority=5, since=4.5 * AGEING_SECONDS))
    table.offer(offer("old", priority=1, since=0))
    assert granted(table, 2) == ["old", "new"]


def test_a_withdrawn_task_is_not_granted() -> None:
    table = SlotTable(lambda agent: 9)
    withdrawn = offer("gone")
    table.offer(withdrawn)
    table.offer(offer("here"))
    table.withdraw(withdrawn.ref, "gone")
    assert granted(table, 2) == ["here", None]


def test_a_task_that_is_offered_twice_is_granted_once() -> None:
    table = SlotTable(lambda agent: 9)
    table.offer(offer("a"))
    table.offer(offer("a"))
    assert granted(table, 2) == ["a", None]
    assert len(table) == 0
