"""Nothing in an event may fail an insert, however odd it is."""

from datetime import UTC, datetime
from typing import Any

import pytest

from meshwright.engine.events.filter import EventFilter
from tests.support.event_logs import LogOnFile, event


class Spiteful:
    """Cannot be written down in any way."""

    def __str__(self) -> str:
        raise RuntimeError("no")

    __repr__ = __str__


def circle() -> list[Any]:
    ring: list[Any] = []
    ring.append(ring)
    return ring


def deep(levels: int) -> dict[str, Any]:
    top: dict[str, Any] = {}
    for _ in range(levels):
        top = {"a": top}
    return top


ODD: list[tuple[Any, Any]] = [
    (None, None),
    ([1, "two"], [1, "two"]),
    ("text", "text"),
    (float("nan"), None),
    ({"half": "\ud83d"}, {"half": "?"}),
    ({"\ud83d": 1}, {"?": 1}),
    ({"bytes": b"\xff"}, {"bytes": "\ufffd"}),
    ({1: "one", None: "none"}, {"1": "one", "None": "none"}),
    (circle(), ["..."]),
    ({"half": "\ud83d", "ring": circle()}, {"half": "?", "ring": ["<circular>"]}),
    ({"spite": Spiteful(), "kept": datetime(2030, 1, 1, tzinfo=UTC)}, None),
    (deep(180), deep(180)),
    (10**400, None),
]


@pytest.mark.parametrize(("payload", "expected"), ODD, ids=[str(n) for n in range(len(ODD))])
async def test_an_odd_payload_is_kept_as_well_as_it_can_be(
    store: LogOnFile, payload: Any, expected: Any
) -> None:
    await store.write([event(1), event(2, payload=payload), event(3)])
    before, odd, after = await store.log.query(EventFilter())
    assert (before.payload, after.payload) == ({"number": 1}, {"number": 3})
    if expected is not None:
        assert odd.payload == expected
    elif isinstance(payload, dict):
        assert odd.payload["kept"] == "2030-01-01T00:00:00Z"


async def test_a_payload_too_deep_to_read_is_given_as_text(store: LogOnFile) -> None:
    await store.write([event(1, payload=deep(240))])
    [read] = await store.log.query(EventFilter())
    assert isinstance(read.payload, str)
    assert read.payload.startswith('{"a":{"a":')


async def test_odd_fields_do_not_fail_their_neighbours(store: LogOnFile) -> None:
    odd = event(2).model_copy(update={"event_version": 10**30, "task_id": "half \ud83d"})
    await store.write([event(1), odd, event(3)])
    read = await store.log.query(EventFilter())
    assert [each.payload["number"] for each in read] == [1, 2, 3]
    assert read[1].task_id == "half ?"


async def test_types_that_nobody_knows_are_events_like_others(store: LogOnFile) -> None:
    await store.write([event(1, "never.heard_of", task_id="t"), event(2, "", task_id="t")])
    assert len(await store.log.query(EventFilter(task_id="t"))) == 2
