"""Which tasks a worker hands over."""

from meshwright.engine.kernel.envelope import ActorRef
from meshwright.engine.work.sharing import shares
from meshwright.engine.work.slots import Offer, SlotTable


def test_workers_with_free_slots_get_tasks_up_to_the_average() -> None:
    assert shares(16, {"idle": 0}, slots=8) == {"idle": 8}
    assert shares(12, {"idle": 0, "other": 3}, slots=4) == {"idle": 5, "other": 2}


def test_workers_that_are_as_full_get_nothing() -> None:
    assert shares(16, {"one": 15, "two": 18}, slots=8) == {}
    assert shares(40, {"full": 10}, slots=8) == {}


def test_worker_below_the_average_gives_nothing() -> None:
    assert shares(9, {"fuller": 20}, slots=8) == {}
    assert shares(9, {}, slots=8) == {}


def test_workers_above_the_average_divide_what_they_hand_over() -> None:
    counts = [shares(20, {"other": 20, "idle": 0}, slots=8), shares(20, {"other": 20, "idle": 0}, slots=8)]
    assert counts == [{"idle": 6}, {"idle": 6}]


def test_tasks_are_taken_out_in_their_order_without_a_slot() -> None:
    table = SlotTable(lambda _: 1)
    for number in range(3):
        table.offer(Offer(ActorRef("agent", f"t{number}"), f"t{number}", "default", 0, float(number)))
    first = table.grant("agent")
    assert first is not None and first.task_id == "t0"
    assert table.grant("agent") is None
    second = table.take("agent")
    assert second is not None and second.task_id == "t1"
    assert [task_id for _, task_id in table.waiting] == ["t2"]
