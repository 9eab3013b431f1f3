"""The journal of an attempt: what is done is not done again, and what may have been is asked about."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest
from pydantic import BaseModel

from meshwright.core.errors import MeshError, ReplayMismatch, RestartDenied, ToolFailed
from meshwright.engine.kernel.runtime import Runtime
from meshwright.engine.work import Journal, RunSuspended
from meshwright.testing.mesh import memory_runtime
from tests.support.journals import REF, STREAM, Effects, answer, begun, resumed, started


@pytest.fixture
async def runtime() -> AsyncIterator[Runtime]:
    async with started(memory_runtime()) as runtime:
        yield runtime


@pytest.fixture
def effects() -> Effects:
    return Effects()


# Replay


async def test_a_step_that_is_done_is_not_done_again(runtime: Runtime, effects: Effects) -> None:
    for opened in (begun, resumed):
        journal = await opened(runtime)
        assert await journal.step("pay", {"amount": 1}, effects("paid", {"receipt": (1, 2)})) == {
            "receipt": [1, 2]
        }
        await journal.confirm()
    assert effects == ["paid"]


class Receipt(BaseModel):
    number: int


async def test_a_result_comes_back_in_its_shape(runtime: Runtime, effects: Effects) -> None:
    for opened in (begun, resumed):
        journal = await opened(runtime)
        receipt = await journal.step("pay", {}, effects("paid", Receipt(number=7)), shape=Receipt)
        assert receipt == Receipt(number=7)
        await journal.confirm()
    assert effects == ["paid"]


@pytest.mark.parametrize(("kind", "request_"), [("refund", {"amount": 1}), ("pay", {"amount": 2})])
async def test_a_run_that_takes_another_road_is_stopped(
    runtime: Runtime, effects: Effects, kind: str, request_: dict[str, int]
) -> None:
    await (await begun(runtime)).step("pay", {"amount": 1}, effects("paid"))
    with pytest.raises(ReplayMismatch, match=r"step 1 of task t1 was 'pay' before"):
        await (await resumed(runtime)).step(kind, request_, effects("again"))
    assert effects == ["paid"]


async def test_a_step_that_raised_is_made_again(runtime: Runtime, effects: Effects) -> None:
    with pytest.raises(ToolFailed):
        await (await begun(runtime)).step("pay", {}, effects("failed", ToolFailed("no money")))
    assert await (await resumed(runtime)).step("pay", {}, effects("paid")) == "paid"


async def test_a_resumed_run_goes_on_behind_what_it_replays(runtime: Runtime, effects: Effects) -> None:
    journal = await begun(runtime)
    await journal.step("a", {}, effects("a"))
    await journal.step("b", {}, effects("b"))
    journal = await resumed(runtime)
    for name in ("a", "b", "c"):
        await journal.step(name, {}, effects(name))
    assert effects == ["a", "b", "c"]
    assert [record.n for record in await runtime.records(REF, STREAM)] == [1, 2, 3]


async def test_of_two_claims_that_write_a_step_the_first_stands(runtime: Runtime, effects: Effects) -> None:
    first, second = await begun(runtime), await begun(runtime)
    await first.step("pay", {}, effects("first"))
    await second.step("pay", {}, effects("second"))
    assert await (await resumed(runtime)).step("pay", {}, effects("third")) == "first"


# Steps within steps


def outer(journal: Journal, effects: Effects) -> Callable[[], Awaitable[Any]]:
    """A step with two inside."""

    async def run() -> str:
        effects.append("outer")
        parts = [await journal.step(name, {}, effects(name)) for name in ("inner one", "inner two")]
        return " and ".join(parts)

    return run


async def test_a_step_with_steps_inside_is_replayed_whole(runtime: Runtime, effects: Effects) -> None:
    for opened in (begun, resumed):
        journal = await opened(runtime)
        assert await journal.step("outer", {}, outer(journal, effects)) == "inner one and inner two"
        await journal.step("behind", {}, effects("behind"))
        await journal.confirm()
    assert effects == ["outer", "inner one", "inner two", "behind"]


async def test_what_was_done_inside_a_step_that_broke_off_is_kept(runtime: Runtime, effects: Effects) -> None:
    journal = await begun(runtime)

    async def breaks_off() -> str:
        await journal.step("inner one", {}, effects("inner one"))
        raise ConnectionError

    with pytest.raises(ConnectionError):
        await journal.step("outer", {}, breaks_off)
    journal = await resumed(runtime)
    assert await journal.step("outer", {}, outer(journal, effects)) == "inner one and inner two"
    await journal.step("behind", {}, effects("behind"))
    assert effects == ["inner one", "outer", "inner two", "behind"]


# Steps side by side


async def test_steps_side_by_side_are_each_found_again(runtime: Runtime, effects: Effects) -> None:
    for opened in (begun, resumed):
        journal = await opened(runtime)
        work = [journal.step("look", {"at": name}, effects(name)) for name in ("a", "b", "c")]
        assert await asyncio.gather(*work) == ["a", "b", "c"]
        await journal.confirm()
    assert sorted(effects) == ["a", "b", "c"]


async def test_a_branch_is_found_again_whatever_the_order_in_which_they_start(
    runtime: Runtime, effects: Effects
) -> None:
    async def branch(journal: Journal, name: str) -> str:
        first = await journal.step("first", {"of": name}, effects(f"first of {name}"))
        return f"{first}, {await journal.step('second', {}, effects(f'second of {name}'))}"

    answers = []
    for opened, order in ((begun, "abc"), (resumed, "cab")):
        journal = await opened(runtime)
        found = await asyncio.gather(*(branch(journal, name) for name in order))
        answers.append(dict(zip(order, found, strict=True)))
        await journal.confirm()
    assert answers[0] == answers[1]
    assert len(effects) == 6


async def test_what_a_branch_changed_is_not_repeated_where_it_begins_with_something_else(
    runtime: Runtime, effects: Effects
) -> None:
    async def branch(journal: Journal, first: str) -> None:
        await journal.step("tool look", {"at": first}, effects(f"look {first}"))
        await journal.step("tool pay", {"of": 1}, effects("pay", {"value": "paid", "changed": True}))

    journal = await begun(runtime)
    await asyncio.gather(branch(journal, "a"), journal.step("beside", {}, effects("beside")))
    await journal.confirm()
    for claim in (0, 1):  # the second finds a step of the new branch
        journal = await resumed(runtime, claim)
        with pytest.raises(ReplayMismatch, match="was in a branch that began with something else before"):
            await asyncio.gather(branch(journal, "b"), journal.step("beside", {}, effects("beside")))
        await journal.confirm()
    assert effects.count("pay") == 1


async def test_a_person_is_asked_before_a_branch_that_begins_with_something_else_repeats_a_step(
    runtime: Runtime, effects: Effects
) -> None:
    async def branch(journal: Journal, first: str) -> None:
        await journal.step("look", {"at": first}, effects(f"look {first}"))
        await journal.step("pay", {}, effects("paid"), repeatable=False)

    async def run(opened: Callable[[Runtime], Awaitable[Journal]], first: str) -> Journal:
        journal = await opened(runtime)
        with suppress(asyncio.CancelledError):  # by a question
            await asyncio.gather(branch(journal, first))
        await journal.confirm()
        return journal

    await asyncio.create_task(run(begun, "a"))
    asked = (await asyncio.create_task(run(resumed, "b"))).suspended
    assert asked is not None and [wait.kind for wait in asked.suspend.waits] == ["person"]
    assert asked.suspend.waits[0].subject["steps"] == ["pay"]
    assert effects == ["look a", "paid", "look b"]


async def test_equal_requests_side_by_side_are_found_again_where_one_was_done(
    runtime: Runtime, effects: Effects
) -> None:
    async def branch(journal: Journal, name: str, result: Any) -> None:
        await journal.step("look", {"at": name}, effects(f"look {name}"))
        await journal.step("tool pay", {}, effects(f"pay {name}", result))

    paid, journal = {"value": "paid", "changed": True}, await begun(runtime)
    failing = branch(journal, "b", ToolFailed("not yet"))
    await asyncio.gather(branch(journal, "a", paid), failing, return_exceptions=True)
    journal = await resumed(runtime)
    await asyncio.gather(branch(journal, "b", paid), branch(journal, "a", paid))
    assert effects == ["look a", "pay a", "look b", "pay b", "pay b"]


async def test_what_finished_beside_a_step_that_failed_is_kept(runtime: Runtime, effects: Effects) -> None:
    async def both(journal: Journal, fails: Exception | None) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(journal.step("a", {}, effects("a")))
            group.create_task(journal.step("b", {}, effects("b", fails)))

    with pytest.raises(ExceptionGroup):
        await both(await begun(runtime), ToolFailed("not yet"))
    await both(await resumed(runtime), None)
    assert effects == ["a", "b", "b"]


async def test_a_worker_that_lost_its_claim_overwrites_nothing(runtime: Runtime, effects: Effects) -> None:
    lost, claimed = await begun(runtime), await resumed(runtime, claim=1)
    for n in range(3):
        await lost.step(f"lost {n}", {}, effects("lost"))
        await claimed.step("new", {"n": n}, effects(f"new {n}"))
    await claimed.confirm()
    journal = await resumed(runtime, claim=2)
    for n in range(3):
        assert await journal.step("new", {"n": n}, effects("again")) == f"new {n}"


# Steps that may not be repeated


async def test_what_may_have_happened_is_not_run_again_but_asked_about(
    runtime: Runtime, effects: Effects
) -> None:
    journal = await begun(runtime)
    with pytest.raises(ConnectionError):
        await journal.step("deploy", {"to": "prod"}, effects("deployed", ConnectionError()), repeatable=False)
    with pytest.raises(RunSuspended) as asked:
        await (await resumed(runtime)).step("deploy", {"to": "prod"}, effects("again"), repeatable=False)
    assert asked.value.suspend.waits[0].wait_id == f"{STREAM}/0.1.1"
    assert asked.value.suspend.waits[0].subject["kind"] == "deploy"
    assert asked.value.suspend.waits[0].subject["request"] == {"to": "prod"}
    await answer(runtime, asked.value, {"approve": False, "result": "it did"})
    journal = await resumed(runtime)
    assert await journal.step("deploy", {"to": "prod"}, effects("again"), repeatable=False) == "it did"
    assert effects == ["deployed"]


async def test_what_has_happened_and_is_known_is_not_asked_about(runtime: Runtime, effects: Effects) -> None:
    for opened in (begun, resumed):
        journal = await opened(runtime)
        assert await journal.step("deploy", {}, effects("deployed"), repeatable=False) == "deployed"
        await journal.confirm()
    assert effects == ["deployed"]


async def test_a_run_goes_on_behind_the_steps_inside_of_what_a_person_answered_for(
    runtime: Runtime, effects: Effects
) -> None:
    journal = await begun(runtime)

    async def breaks_off() -> str:
        await journal.step("inner one", {}, effects("inner one"))
        raise ConnectionError

    with pytest.raises(ConnectionError):
        await journal.step("deploy", {}, breaks_off, repeatable=False)
    with pytest.raises(RunSuspended) as asked:
        await (await resumed(runtime)).step("deploy", {}, effects("again"), repeatable=False)
    await answer(runtime, asked.value, {"approve": False, "result": "it did"})
    for _ in range(2):
        journal = await resumed(runtime)
        assert await journal.step("deploy", {}, effects("again"), repeatable=False) == "it did"
        assert await journal.step("behind", {}, effects("behind")) == "behind"
        await journal.confirm()
    assert effects == ["inner one", "behind"]


async def test_a_step_that_a_person_lets_run_again_is_asked_about_each_time(
    runtime: Runtime, effects: Effects
) -> None:
    async def deploy(claim: int, *, fails: bool = True) -> Any:
        journal = await resumed(runtime, claim)
        effect = effects("deployed", ConnectionError() if fails else "it is there")
        return await journal.step("deploy", {}, effect, repeatable=False)

    for claim in range(2):
        with pytest.raises(ConnectionError):
            await deploy(2 * claim)
        with pytest.raises(RunSuspended) as asked:
            await deploy(2 * claim + 1)
        await answer(runtime, asked.value, {"approve": True})
    for claim in (4, 5):
        assert await deploy(claim, fails=False) == "it is there"
    assert effects == ["deployed"] * 3


@pytest.mark.parametrize(("approve", "ends"), [(True, ReplayMismatch), (False, RestartDenied)])
async def test_a_person_decides_whether_a_run_that_takes_another_road_starts_over(
    runtime: Runtime, effects: Effects, approve: bool, ends: type[MeshError]
) -> None:
    journal = await begun(runtime)
    await journal.step("deploy", {}, effects("deployed"), repeatable=False)
    await journal.step("check", {}, effects("checked"))
    journal = await resumed(runtime)
    await journal.step("deploy", {}, effects("again"), repeatable=False)
    with pytest.raises(RunSuspended) as asked:
        await journal.step("another step", {}, effects("again"))
    assert asked.value.suspend.waits[0].subject == {"kind": "restart", "steps": ["deploy"]}
    await answer(runtime, asked.value, {"approve": approve})
    journal = await resumed(runtime)
    await journal.step("deploy", {}, effects("again"), repeatable=False)
    for _ in range(2):  # also where the agent's code catches it
        with pytest.raises(ends):
            await journal.step("another step", {}, effects("again"))
    assert effects == ["deployed", "checked"]
