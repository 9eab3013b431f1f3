"""Several workers on the same data: they share the tasks, and take over what one of them leaves behind."""

import asyncio

import pytest

from meshwright.envelope import ActorRef
from meshwright.host import Host
from meshwright.work import Cancel
from tests.contract.crew import Crew, Hire, Shift
from tests.contract.scripts import one_step, three_steps
from tests.contract.stands import SHARED, Stand
from tests.contract.watching import PATIENCE_SECONDS

pytestmark = pytest.mark.parametrize("stand", SHARED, indirect=True)

T1 = ActorRef("helper", "default:t1")
T2 = ActorRef("helper", "default:t2")


async def two_hosts(crew: Crew) -> tuple[Host, Host]:
    """The host that works on t1, which the test holds in its step, and another that is idle."""
    first, second = crew.host, await crew.reinforce()
    await crew.submit("t1")
    await crew.until(lambda: bool(crew.begun) and bool(crew.events("task.started")))
    at_work = first.incarnation == owners(crew)[-1]
    return (first, second) if at_work else (second, first)


def owners(crew: Crew) -> list[str]:
    """Which runs of workers have claimed t1, one after another."""
    claims = [*crew.events("task.started", "t1"), *crew.events("task.resumed", "t1")]
    return [event.payload["owner"] for event in claims]


async def is_known_to_be_gone(incarnation: str, host: Host) -> None:
    """Wait until a host knows that a run of a worker has ended."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not await host.is_gone(incarnation):
            await asyncio.sleep(0.02)  # a lease runs out by the clock, and nobody says so


async def test_two_workers_share_the_tasks_of_a_fleet(stand: Stand, hire: Hire) -> None:
    crew = await hire(one_step, slots=1)
    for name in ("t1", "t2"):
        crew.hold(f"{name} work")
    busy, idle = await two_hosts(crew)
    await crew.submit("t2")
    await crew.queued("t2", "t2")
    await stand.redrive(idle, T2)
    await crew.has_begun("t2 work")
    assert [crew.worker_of(host).running for host in (busy, idle)] == [1, 1]
    for name in ("t1", "t2"):
        crew.let_go(f"{name} work")
        assert (await crew.outcome(name)).success
    assert sorted(crew.begun) == ["t1 work", "t2 work"]


async def test_a_task_is_not_taken_from_a_worker_that_lives(stand: Stand, hire: Hire) -> None:
    crew = await hire(one_step)
    crew.hold("t1 work")
    busy, idle = await two_hosts(crew)
    for host in (busy, idle):
        await stand.redrive(host, T1)
    await rests(crew, idle)
    assert crew.begun == ["t1 work"]
    crew.let_go("t1 work")
    assert (await crew.outcome("t1")).text == "work by 1"
    await rests(crew, busy)
    assert (crew.begun, len(crew.events("attempt.ended"))) == (["t1 work"], 1)


async def rests(crew: Crew, host: Host) -> None:
    """Wait until a host's worker has nothing under way."""
    while crew.worker_of(host).running:
        await asyncio.sleep(0)


async def test_a_cancel_reaches_the_worker_that_works_from_any_process(stand: Stand, hire: Hire) -> None:
    crew = await hire(one_step)
    crew.hold("t1 work")
    busy, idle = await two_hosts(crew)
    await idle.call(T1, "cancel", Cancel(task_id="t1", reason="no longer needed"))
    assert (await crew.outcome("t1")).status == "cancelled"
    await rests(crew, busy)
    assert crew.begun == ["t1 work"]


async def test_what_a_killed_worker_had_is_taken_up_by_one_of_the_others(stand: Stand, hire: Hire) -> None:
    crew = await hire(three_steps)
    crew.hold("t1 second")
    busy, idle = await two_hosts(crew)
    third = await stand.open_beside(idle)
    await crew.has_begun("t1 second")
    crew.host = idle
    await crew.kill(busy)
    await is_known_to_be_gone(busy.incarnation, idle)
    await asyncio.gather(*[stand.redrive(host, T1) for host in (idle, third, idle, third)])
    await crew.has_begun("t1 second", times=2)
    crew.let_go("t1 second")
    assert (await crew.outcome("t1")).text == "first by 1, second by 2, third by 2"
    assert crew.begun == ["t1 first", "t1 second", "t1 second", "t1 third"]
    assert crew.events("work.discarded") == []


async def test_a_task_that_was_cancelled_when_its_worker_died_ends_with_the_next_redrive(
    stand: Stand, hire: Hire
) -> None:
    crew = await hire(one_step)
    crew.hold("t1 work")
    busy, idle = await two_hosts(crew)
    crew.host = idle
    await crew.kill(busy)
    await crew.cancel("t1")
    await is_known_to_be_gone(busy.incarnation, idle)
    await stand.redrive(idle, ActorRef("Orchestrator", "t1"))
    assert (await crew.outcome("t1")).status == "cancelled"
    assert crew.begun == ["t1 work"]


async def test_a_worker_that_lapsed_lets_its_work_go_and_goes_on_under_another_name(
    stand: Stand, hire: Hire
) -> None:
    crew = await hire(three_steps)
    crew.hold("t1 second")
    await crew.submit("t1")
    await crew.has_begun("t1 second")
    before = crew.host.incarnation
    await stand.lapse(crew.host)
    await crew.has_begun("t1 second", times=2)
    crew.let_go("t1 second")
    assert (await crew.outcome("t1")).text == "first by 1, second by 2, third by 2"
    assert await crew.host.is_gone(before)
    assert owners(crew) == [before, crew.host.incarnation]
    assert crew.begun == ["t1 first", "t1 second", "t1 second", "t1 third"]


async def test_a_worker_that_is_stopped_while_it_begins_anew_has_let_go_of_everything(
    stand: Stand, hire: Hire
) -> None:
    crew = await hire(three_steps)
    crew.hold("t1 second")
    await crew.submit("t1")
    await crew.has_begun("t1 second")
    await stand.lapse(crew.host)
    await crew.restart()
    await crew.has_begun("t1 second", times=2)
    crew.let_go("t1 second")
    assert (await crew.outcome("t1")).text == "first by 1, second by 2, third by 2"


async def test_a_worker_that_lapsed_commits_nothing_of_what_another_has_claimed(
    stand: Stand, hire: Hire
) -> None:
    async def does_not_let_go(shift: Shift) -> str:
        try:
            return await shift.do("work")
        except asyncio.CancelledError:
            await shift.crew.begin("t1 late")
            return "too late"

    crew = await hire(does_not_let_go)
    crew.hold("t1 work")
    crew.hold("t1 late")
    lapsed, idle = await two_hosts(crew)
    before = lapsed.incarnation
    await stand.lapse(lapsed)
    await crew.has_begun("t1 late")
    await is_known_to_be_gone(before, idle)
    await stand.redrive(idle, T1)
    await crew.has_begun("t1 work", times=2)
    crew.let_go("t1 late")
    await crew.until(lambda: bool(crew.events("work.discarded", "t1")))
    crew.let_go("t1 work")
    assert (await crew.outcome("t1")).text == "work by 2"
    await crew.until(lambda: len(owners(crew)) > 1)  # a claim may be told after the outcome, as may an end
    assert owners(crew) == [before, idle.incarnation]
    await crew.until(lambda: bool(crew.events("attempt.ended")))
    assert len(crew.events("attempt.ended")) == 1
