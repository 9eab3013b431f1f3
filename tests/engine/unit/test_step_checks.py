"""Checks of steps that were interrupted: only where one cannot tell is a person asked."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from meshwright.core.checks import CheckResult
from meshwright.engine.kernel.runtime import Runtime
from meshwright.engine.work import Journal, RunSuspended
from meshwright.testing.mesh import memory_runtime
from tests.support.journals import Effects, answer, begun, resumed, started


@pytest.fixture
async def runtime() -> AsyncIterator[Runtime]:
    async with started(memory_runtime()) as runtime:
        yield runtime


@pytest.fixture
def effects() -> Effects:
    return Effects()


class Checks:
    """Checks that give these results, one after another."""

    def __init__(self, *results: CheckResult) -> None:
        self.results = list(results)
        self.ids: list[str] = []
        self.journal: Journal | None = None

    async def __call__(self) -> CheckResult:
        assert self.journal is not None and self.journal.inside is not None
        self.ids.append(self.journal.inside.identity)
        return self.results.pop(0)

    def step(self, journal: Journal, effects: Effects, *, fails: bool = False, name: str = "again") -> Any:
        self.journal = journal
        run = effects(name, ConnectionError() if fails else "paid")
        return journal.step("pay", {"to": "eve"}, run, repeatable=False, check=self)

    async def breaks_off(self, runtime: Runtime, effects: Effects) -> None:
        with pytest.raises(ConnectionError):
            await self.step(await begun(runtime), effects, fails=True, name="paid")


async def test_a_step_that_happened_has_the_result_of_its_check(runtime: Runtime, effects: Effects) -> None:
    checks = Checks(CheckResult.happened("receipt 8", "the bank lists it"))
    await checks.breaks_off(runtime, effects)
    for _ in range(2):
        journal = await resumed(runtime)
        assert await checks.step(journal, effects) == "receipt 8"
        assert await journal.step("behind", {}, effects("behind")) == "behind"
        await journal.confirm()
    assert effects == ["paid", "behind"]
    assert len(checks.ids) == 1


async def test_a_step_that_did_not_happen_is_run_again(runtime: Runtime, effects: Effects) -> None:
    checks = Checks(CheckResult.did_not_happen())
    await checks.breaks_off(runtime, effects)
    journal = await resumed(runtime)
    assert await checks.step(journal, effects) == "paid"
    await journal.confirm()
    assert await checks.step(await resumed(runtime), effects) == "paid"
    assert effects == ["paid", "again"]


async def test_a_person_is_asked_where_the_check_cannot_tell(runtime: Runtime, effects: Effects) -> None:
    checks = Checks(CheckResult.unknown("the bank does not answer"))
    await checks.breaks_off(runtime, effects)
    with pytest.raises(RunSuspended) as suspended:
        await checks.step(await resumed(runtime), effects)
    [wait] = suspended.value.suspend.waits
    about = {**wait.subject, "began_at": None, "step_id": None}
    assert about == {
        "kind": "pay",
        "request": {"to": "eve"},
        "check": "the bank does not answer",
        "began_at": None,
        "step_id": None,
    }
    assert wait.subject["began_at"] <= wait.since.isoformat()
    assert "Its check cannot tell: the bank does not answer. Check whether" in wait.reason
    await answer(runtime, suspended.value, {"approve": False, "result": "it did"})
    assert await checks.step(await resumed(runtime), effects) == "it did"  # and the check is not run again
    assert effects == ["paid"]


async def test_each_run_of_a_step_is_checked(runtime: Runtime, effects: Effects) -> None:
    checks = Checks(CheckResult.did_not_happen(), CheckResult.happened("receipt 8"))
    await checks.breaks_off(runtime, effects)
    with pytest.raises(ConnectionError):
        await checks.step(await resumed(runtime), effects, fails=True)
    assert await checks.step(await resumed(runtime, claim=2), effects) == "receipt 8"
    assert effects == ["paid", "again"]


async def test_a_check_that_was_cut_off_is_run_again(runtime: Runtime, effects: Effects) -> None:
    checks = Checks(CheckResult.happened("receipt 8"))
    await checks.breaks_off(runtime, effects)

    async def dies() -> CheckResult:
        raise ConnectionError

    with pytest.raises(ConnectionError):
        await (await resumed(runtime)).step(
            "pay", {"to": "eve"}, effects("again"), repeatable=False, check=dies
        )
    assert await checks.step(await resumed(runtime, claim=2), effects) == "receipt 8"
    assert effects == ["paid"]


async def test_a_check_has_the_identity_of_its_step(runtime: Runtime, effects: Effects) -> None:
    checks, ids = Checks(CheckResult.did_not_happen()), []
    await checks.breaks_off(runtime, effects)
    journal = await resumed(runtime)

    async def pay() -> str:
        assert journal.inside is not None
        ids.append(journal.inside.identity)
        return "paid"

    checks.journal = journal
    await journal.step("pay", {"to": "eve"}, pay, repeatable=False, check=checks)
    assert ids == checks.ids


async def test_a_check_is_recorded_with_what_it_saw(runtime: Runtime, effects: Effects) -> None:
    checks = Checks(CheckResult.happened("receipt 8", "the bank lists it"))
    await checks.breaks_off(runtime, effects)
    journal = await resumed(runtime)
    await checks.step(journal, effects)
    await journal.confirm()
    [checked] = [record for record in (await resumed(runtime)).earlier if record.get("kind") == "check pay"]
    assert (checked["path"], checked["number"]) == ("0.1.c1", 2)
    assert checked["result"] == {
        "outcome": "happened",
        "result": "receipt 8",
        "evidence": "the bank lists it",
    }


async def test_a_step_without_a_check_asks_as_before(runtime: Runtime, effects: Effects) -> None:
    with pytest.raises(ConnectionError):
        await (await begun(runtime)).step("pay", {}, effects("paid", ConnectionError()), repeatable=False)
    with pytest.raises(RunSuspended) as suspended:
        await (await resumed(runtime)).step("pay", {}, effects("again"), repeatable=False)
    subject = suspended.value.suspend.waits[0].subject
    assert (subject["kind"], subject["request"], "check" in subject) == ("pay", {}, False)
