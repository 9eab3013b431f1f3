"""A request before it is a task: limits, ids, and what tells a repeat from another request."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

import pytest
from pydantic import ValidationError

from meshwright.core.errors import InvalidInput, TooLarge
from meshwright.core.ids import ID_PATTERN
from meshwright.core.messages import Caller, Task, TaskRequest, TaskVariant
from meshwright.engine.work.protocol import Accept
from meshwright.mesh.orchestration.acceptance import PayloadLimits, hash_request, make_task
from tests.support.turn_driver import NOW

TINY = PayloadLimits(max_payload_bytes=100, max_payload_depth=3)


def accepted(
    request: TaskRequest | None = None,
    caller: Caller | None = None,
    *,
    key: str | None = None,
    limits: PayloadLimits | None = None,
    **fields: Any,
) -> Accept:
    request = request or TaskRequest(**({"agent_id": "helper"} | fields))
    caller = caller or Caller()
    task = make_task(request, caller, now=NOW, limits=limits or PayloadLimits(), idempotency_key=key)
    return Accept.wrap(task, request_hash=hash_request(request, caller, key))


TRIED = TaskVariant(
    experiment="e-1", name="short", agent_id="helper", params={"variants": [], "limits": None}
)


@pytest.mark.parametrize("variants", [(), (TRIED,), (TRIED, TRIED)])
@pytest.mark.parametrize("fields", [{}, {"budget_usd": "0.5", "on_empty": "ask"}])
def test_a_task_travels_whole_and_without_fields_that_say_nothing(
    variants: tuple[TaskVariant, ...], fields: dict[str, Any]
) -> None:
    request = TaskRequest(agent_id="helper", **fields)
    task = make_task(request, Caller(), now=NOW, limits=PayloadLimits(), variants=variants)
    written = bytes(task.encode())
    assert Task.model_validate_json(written) == task
    assert (b'"sender_context"' in written) == bool(fields)
    assert (b'"experiment":"e-1"' in written) == bool(variants)


# Limits


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"priority": -1}, "priority"),
        ({"priority": 11}, "priority"),
        ({"timeout": 0}, "timeout"),
        ({"timeout": 86_401}, "timeout"),
        ({"deadline": 0}, "deadline"),
        ({"deadline": 604_801}, "deadline"),
        ({"task_id": "../etc"}, "task_id"),
        ({"task_id": ""}, "task_id"),
        ({"task_id": "x" * 65}, "task_id"),
        ({"task_id": "t1\n"}, "task_id"),
        ({"thread_id": "a/b"}, "thread_id"),
        ({"agent_id": "#"}, "agent_id"),
        ({"capability": "general query"}, "capability"),
        ({"payload": ["not", "an", "object"]}, "payload"),
        ({"tenant_id": "another"}, "tenant_id"),
        ({"requested_by": "the boss"}, "requested_by"),
    ],
)
def test_what_is_out_of_range_is_refused_by_its_field(fields: dict[str, Any], field: str) -> None:
    with pytest.raises(ValidationError) as refused:
        TaskRequest(**({"agent_id": "helper"} | fields))
    assert refused.value.errors()[0]["loc"] == (field,)


def test_a_payload_may_be_as_large_as_the_limit_and_no_larger() -> None:
    fits = {"text": "x" * (100 - len('{"text":""}'))}
    assert accepted(payload=fits, limits=TINY).task.payload == fits
    with pytest.raises(TooLarge, match="has 101 bytes, 100 are allowed") as refused:
        accepted(payload={"text": fits["text"] + "x"}, limits=TINY)
    assert (refused.value.field, refused.value.status) == ("payload", 413)


def test_the_size_of_a_payload_is_counted_in_bytes() -> None:
    with pytest.raises(TooLarge):
        accepted(payload={"text": "é" * 60}, limits=TINY)


def test_a_payload_may_be_nested_as_deep_as_the_limit_and_no_deeper() -> None:
    fits: dict[str, Any] = {"a": [{"b": 1}]}
    assert accepted(payload=fits, limits=TINY).task.payload == fits
    for deeper in ({"a": [{"b": []}]}, {"a": {"b": {"c": {}}}}, {"a": [{"b": ()}]}):
        with pytest.raises(TooLarge, match="nested over 3 deep"):
            accepted(payload=deeper, limits=TINY)


def test_no_depth_is_too_much_to_be_refused() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(TooLarge):
        accepted(payload={"deep": deep})
    round_and_round: list[Any] = []
    round_and_round.append(round_and_round)
    with pytest.raises(TooLarge):
        accepted(payload={"circle": round_and_round})


@pytest.mark.parametrize("value", [object(), "\ud83d", float("nan"), [float("inf")], b"\xff"])
def test_a_payload_that_json_cannot_hold_is_refused(value: object) -> None:
    with pytest.raises(InvalidInput, match="the payload is not JSON") as refused:
        accepted(payload={"value": value})
    assert refused.value.field == "payload"


def test_the_request_in_words_must_be_words() -> None:
    with pytest.raises(InvalidInput) as refused:
        accepted(payload={"text": {"nested": "words"}})
    assert refused.value.field == "payload.text"


@pytest.mark.parametrize("key", ["", "x" * 256, "line\nbreak", "nul\x00"])
@pytest.mark.parametrize("task_id", [None, "t1"])
def test_an_idempotency_key_must_be_short_and_printable(key: str, task_id: str | None) -> None:
    with pytest.raises(InvalidInput, match="1 to 255 printable characters") as refused:
        accepted(key=key, task_id=task_id)
    assert refused.value.field == "Idempotency-Key"


# The task


def test_a_task_carries_what_was_asked_and_by_whom() -> None:
    caller = Caller(tenant_id="acme", requested_by="ann")
    request = TaskRequest(
        task_id="t1",
        capability="research",
        agent_id="helper",
        payload={"text": "Why?"},
        priority=9,
        timeout=10,
        thread_id="talk",
    )
    task = accepted(request, caller).task
    assert (task.task_id, task.thread_id, task.capability, task.agent_id) == (
        "t1",
        "talk",
        "research",
        "helper",
    )
    assert (task.tenant_id, task.requested_by, task.priority, task.timeout) == ("acme", "ann", 9, 10)
    assert (task.text, task.generation, task.chain, task.parent) == ("Why?", 1, (), None)
    assert task.created_at == NOW


def test_a_task_without_a_thread_has_one_of_its_own() -> None:
    task = accepted().task
    assert task.thread_id == task.task_id


def test_a_task_may_take_a_day_unless_it_says_otherwise() -> None:
    assert accepted(timeout=10).task.deadline_at == NOW + timedelta(days=1)
    assert accepted(timeout=10, deadline=15).task.deadline_at == NOW + timedelta(seconds=15)


# Ids, and repeats


def test_a_task_without_a_name_gets_an_id_of_its_own() -> None:
    first, second = accepted().task.task_id, accepted().task.task_id
    assert first != second
    assert re.fullmatch(ID_PATTERN, first)
    assert first < second or first[:10] == second[:10]


def test_the_same_key_gives_the_same_task_and_another_key_another() -> None:
    ids = {accepted(key=key).task.task_id for key in ("order-1", "order-1", "order-2")}
    assert len(ids) == 2
    assert all(re.fullmatch(ID_PATTERN, task_id) for task_id in ids)


@pytest.mark.parametrize("other", [Caller(tenant_id="two"), Caller(source="mqtt")])
def test_the_same_key_of_another_tenant_or_door_is_another_task(other: Caller) -> None:
    assert accepted(key="order-1").task.task_id != accepted(caller=other, key="order-1").task.task_id


def test_parts_of_a_key_cannot_run_together() -> None:
    one = accepted(caller=Caller(tenant_id="a", source="bc"), key="d").task.task_id
    two = accepted(caller=Caller(tenant_id="ab", source="c"), key="d").task.task_id
    assert one != two


def test_a_given_id_is_kept_whatever_the_key() -> None:
    assert accepted(task_id="t1", key="order-1").task.task_id == "t1"
    assert accepted(task_id="t1", key="order-1").task.idempotency_key == "order-1"


def test_a_repeat_has_the_same_hash_and_any_other_request_another() -> None:
    given = {"payload": {"text": "Why?"}, "priority": 5, "timeout": 10.0, "thread_id": "talk"}
    first = accepted(key="k", **given).request_hash
    assert accepted(key="k", **given).request_hash == first
    others = [
        {"payload": {"text": "Who?"}},
        {"priority": 6},
        {"timeout": 11.0},
        {"thread_id": "chat"},
        {"agent_id": "another"},
        {"capability": "research"},
        {"deadline": 99.0},
        {"shape": {"type": "object"}},
    ]
    hashes = {accepted(key="k", **(given | other)).request_hash for other in others}
    assert len(hashes | {first}) == len(others) + 1


def test_the_hash_of_a_request_is_that_of_earlier_versions() -> None:
    given = {"task_id": "t1", "capability": "painting", "agent_id": "painter", "text": "A cat"}
    given |= {"payload": {"size": 3}, "thread_id": "th", "budget_usd": "1.5", "timeout": 3}
    assert accepted(**given).request_hash == "bede5239fff1524552dadeb6f4dd045b"


def test_another_tenants_request_of_the_same_id_is_another_request() -> None:
    mine = accepted(task_id="t1").request_hash
    theirs = accepted(caller=Caller(tenant_id="two"), task_id="t1").request_hash
    assert mine != theirs


def test_what_cannot_be_repeated_has_no_hash() -> None:
    assert accepted().request_hash == ""
    assert accepted(task_id="t1").request_hash
    assert accepted(key="k").request_hash
