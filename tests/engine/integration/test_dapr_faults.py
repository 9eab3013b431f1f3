"""Kill -9 of each part of a mesh on Dapr, under load: every accepted task goes on by itself, and ends once.

The oracle decides: see (runtime/meshwright/parts/proving/oracle.py); the last tests show that it sees what is
wrong on Dapr too. `DAPR_FAULT_TASKS` makes the load larger, `DAPR_FREEZES` freezes parts more often.
"""

import asyncio
import os
import random
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from meshwright.parts.proving.workload import PlannedTask
from tests.support.faults import controls, dapr_controls
from tests.support.faults.dapr_mesh import DaprMesh
from tests.support.faults.dapr_node import LEASE_SECONDS
from tests.support.services import Services

pytestmark = pytest.mark.needs("mosquitto", "redis-server", "redis-cli")
TASKS = int(os.environ.get("DAPR_FAULT_TASKS", "36"))
SOME = TASKS // 4  # outcomes after which harm is done: the load is under way, and most of it to come
DOWN_SECONDS = 2.0  # how long a service stays away: the outage is what is tested
LOSS_SECONDS = 8.0  # after which nothing comes any more that nobody asks for again
NEVER = 3600.0
SAME = pytest.mark.soak("the two workers of an app differ in that one has the log")
KEPT = pytest.mark.soak("it is tried where the service has lost its data")
BY_CHANCE = pytest.mark.soak("each part is killed by itself, and a worker sleeps beyond its lease")
TOGETHER = pytest.mark.soak("a worker and its sidecar are killed together, and another takes up its work")
SHOWN = pytest.mark.soak("test_fault_oracle.py shows what the oracle sees")
FREEZES = int(os.environ.get("DAPR_FREEZES", "1"))

MakeMesh = Callable[..., DaprMesh]


@pytest.fixture
def make_mesh(own_services: Services, tmp_path: Path, rng: random.Random, seed: int) -> MakeMesh:
    """Makes a mesh with tasks to do; of them some are `cancelled`."""
    print(f"seed {seed}")

    def make(*, cancelled: bool = True, **options: Any) -> DaprMesh:
        plan = [load(number, rng, cancelled=cancelled) for number in range(TASKS)]
        return DaprMesh(own_services, tmp_path, plan, **options)

    return make


@pytest.fixture
def mesh(make_mesh: MakeMesh) -> DaprMesh:
    return make_mesh()


def load(number: int, rng: random.Random, *, cancelled: bool) -> PlannedTask:
    """A task for load: of a third of them several share a thread, and a few run until they are cancelled."""
    if cancelled and number % 24 == 7:
        return PlannedTask(f"hang {number}", "clerk", cancel=True)
    shape, agent_id = rng.choice([("plain", "clerk"), ("find", "finder"), ("ask", "manager")])
    thread_id = f"thread-{rng.randrange(10)}" if rng.random() < 0.33 else None
    return PlannedTask(f"{shape} {number}", agent_id, thread_id)


# A worker, a sidecar, or both


@pytest.mark.parametrize("name", ["front", pytest.param("replica", marks=SAME)])
async def test_a_worker_is_killed_and_restarted(mesh: DaprMesh, name: str) -> None:
    worker = getattr(mesh, name)
    async with mesh:
        await mesh.outcomes(SOME)
        worker.kill()
        await worker.start()
        evidence = await mesh.judge(kills=1)
    assert evidence.select_events("task.resumed"), "the kill met no work under way"


async def test_another_worker_takes_up_what_one_that_never_comes_back_has_left(mesh: DaprMesh) -> None:
    async with mesh:
        await mesh.outcomes(SOME)
        mesh.replica.kill()
        mesh.replica.sidecar.kill()
        evidence = await mesh.judge(kills=1)
    assert evidence.select_events("task.resumed"), "the kill met no work under way"


async def test_a_claim_is_published_though_its_worker_died_before(mesh: DaprMesh) -> None:
    mesh.replica.break_on_purpose(dapr_controls.UNPUBLISHED)
    async with mesh:
        while not mesh.replica.has_ended():
            await asyncio.sleep(0.1)
        evidence = await mesh.judge(kills=1)
    resumed = {event.task_id for event in evidence.select_events("task.resumed")}
    started = {event.task_id for event in evidence.select_events("task.started")}
    assert resumed and resumed <= started, "a claim of the worker that died is not in the log"


async def test_a_worker_claims_nothing_until_its_front_has_given_it_the_prompts(mesh: DaprMesh) -> None:
    mesh.front.sidecar.launch()
    await mesh.front.start()
    await mesh.outcomes(1)
    mesh.front.kill()
    await mesh.forget("actor/prompt-registry/mesh")  # a front of an earlier release does not share it
    mesh.replica.sidecar.launch()
    mesh.replica.launch()
    try:
        await mesh.replica.ready()
        while "no task begins in this process" not in mesh.replica.log:
            await asyncio.sleep(0.1)
        await mesh.front.start()
        evidence = await mesh.judge(kills=1)
    finally:
        mesh.kill()
    [held], [begun] = evidence.select_events("worker.held"), evidence.select_events("worker.begun")
    assert held.aggregate_id == begun.aggregate_id and "prompts cannot be read" in held.fields["reason"]
    assert "is taken up again" not in mesh.replica.log


async def test_a_worker_whose_calls_of_actors_all_fail_works_by_what_its_front_shares(mesh: DaprMesh) -> None:
    mesh.replica.break_on_purpose(dapr_controls.NO_CALLS)
    async with mesh:
        evidence = await mesh.judge()
    assert evidence.select_events("worker.held") == []
    assert len({event.fields["owner"] for event in evidence.select_events("task.started")}) == 2


async def test_a_worker_that_starts_while_its_front_is_away_takes_up_its_work(mesh: DaprMesh) -> None:
    mesh.front.sidecar.launch()
    await mesh.front.start()
    await mesh.outcomes(1)
    mesh.front.kill()
    calls = mesh.books.calls.count()
    mesh.replica.sidecar.launch()
    mesh.replica.launch()
    try:
        await mesh.replica.ready()
        while mesh.books.calls.count() == calls:
            await asyncio.sleep(0.1)
        await mesh.front.start()
        evidence = await mesh.judge(kills=1)
    finally:
        mesh.kill()
    assert evidence.select_events("worker.held") == []


@TOGETHER
async def test_a_worker_never_comes_back_and_its_sidecar_stays(mesh: DaprMesh) -> None:
    async with mesh:
        await mesh.outcomes(SOME)
        mesh.replica.kill()
        await mesh.judge(kills=1)


@TOGETHER
@pytest.mark.parametrize("name", ["front", "replica"])
async def test_a_sidecar_is_killed_and_restarted(mesh: DaprMesh, name: str) -> None:
    worker = getattr(mesh, name)
    async with mesh:
        await mesh.outcomes(SOME)
        worker.sidecar.kill()
        await worker.sidecar.start()
        await mesh.judge()


async def test_a_worker_and_its_sidecar_are_killed_together_and_restarted(mesh: DaprMesh) -> None:
    async with mesh:
        await mesh.outcomes(SOME)
        mesh.front.kill()
        mesh.front.sidecar.kill()
        mesh.front.sidecar.launch()
        await mesh.front.start()
        await mesh.judge(kills=1)


# What they stand on


@KEPT
async def test_the_broker_is_killed_and_restarted(mesh: DaprMesh) -> None:
    async with mesh:
        await mesh.outcomes(SOME)
        mesh.services.kill("mosquitto")
        await asyncio.sleep(DOWN_SECONDS)
        mesh.services.start_again("mosquitto")
        await mesh.judge()


async def test_the_broker_is_killed_and_has_kept_nothing(mesh: DaprMesh) -> None:
    async with mesh:
        await lose_what_the_broker_keeps(mesh)
        await mesh.judge()


async def lose_what_the_broker_keeps(mesh: DaprMesh) -> None:
    """Kill a broker without persistence while messages wait in it, for a sidecar that is away."""
    await mesh.outcomes(SOME)
    mesh.replica.sidecar.kill()
    await asyncio.sleep(DOWN_SECONDS / 2)
    mesh.services.kill("mosquitto")
    (mesh.services.folder / "mosquitto" / "mosquitto.db").unlink(missing_ok=True)
    mesh.services.start_again("mosquitto")
    await mesh.replica.sidecar.start()


async def test_redis_is_killed_and_restarted(mesh: DaprMesh) -> None:
    async with mesh:
        await mesh.outcomes(SOME)
        mesh.services.kill("redis")
        await asyncio.sleep(DOWN_SECONDS)
        mesh.services.start_again("redis")
        await mesh.judge(kills=2, slept=2)  # both workers may have lost their lease


async def test_placement_is_killed_and_restarted(mesh: DaprMesh) -> None:
    async with mesh:
        await mesh.outcomes(SOME)
        mesh.services.kill("placement")
        await asyncio.sleep(DOWN_SECONDS)
        mesh.services.start_again("placement")
        await mesh.judge()


@pytest.mark.parametrize("data", [pytest.param("kept", marks=KEPT), "lost"])
async def test_the_scheduler_is_killed_and_restarted(mesh: DaprMesh, data: str) -> None:
    async with mesh:
        await mesh.outcomes(SOME)
        mesh.services.kill("scheduler")
        if data == "lost":
            shutil.rmtree(mesh.services.folder / "scheduler")
        mesh.replica.kill()
        mesh.replica.sidecar.kill()
        await asyncio.sleep(DOWN_SECONDS)
        mesh.services.start_again("scheduler")
        await mesh.judge(kills=1)


# What is no crash


async def test_a_worker_that_slept_beyond_its_lease_commits_nothing(make_mesh: MakeMesh) -> None:
    mesh = make_mesh(model_seconds=0.5)
    async with mesh:
        await mesh.outcomes(SOME)
        mesh.replica.send(signal.SIGSTOP)
        await asyncio.sleep(LEASE_SECONDS + 2)
        mesh.replica.send(signal.SIGCONT)
        evidence = await mesh.judge(kills=1, slept=1)
    assert evidence.select_events("task.resumed"), "nothing of the sleeper's was taken up"
    assert "could not renew its lease in time" in mesh.replica.log


@BY_CHANCE
@pytest.mark.parametrize("number", range(FREEZES))
async def test_parts_that_freeze_for_some_seconds_lose_nothing(
    make_mesh: MakeMesh, rng: random.Random, number: int
) -> None:
    rng.seed(f"{rng.random()} {number}")
    mesh = make_mesh(model_seconds=0.5)
    async with mesh:
        await mesh.outcomes(1)
        for _ in range(4):
            frozen = rng.sample(mesh.pids(), rng.randint(1, 3))
            await asyncio.gather(*[freeze(pid, rng.uniform(1.5, LEASE_SECONDS + 2.5)) for pid in frozen])
            await asyncio.sleep(rng.uniform(0, 2))
        await mesh.judge(kills=4, slept=4)


async def freeze(pid: int, seconds: float) -> None:
    """Stop a process, as a machine does that has no time for it, and let it go on."""
    os.kill(pid, signal.SIGSTOP)
    await asyncio.sleep(seconds)
    os.kill(pid, signal.SIGCONT)


@pytest.mark.parametrize("name", ["front", pytest.param("replica", marks=SAME)])
async def test_a_worker_that_is_restarted_as_it_should_repeats_no_call(
    make_mesh: MakeMesh, name: str
) -> None:
    mesh = make_mesh(cancelled=False)  # what runs for ever outlasts a stop, and has to be begun again
    worker = getattr(mesh, name)
    async with mesh:
        await mesh.outcomes(SOME)
        await worker.stop()
        await worker.start()
        await mesh.judge(kills=0)


# What the oracle is for


async def test_a_repeat_watches_what_a_worker_committed_and_died_before_it_watched(
    make_mesh: MakeMesh,
) -> None:
    mesh = make_mesh()
    mesh.front.break_on_purpose(dapr_controls.UNWATCHED)
    async with mesh:
        await mesh.actors(SOME)
        mesh.front.kill()
        mesh.front.break_on_purpose("")
        await mesh.front.start()
        await mesh.judge(kills=1)


async def test_a_fence_keeps_out_the_second_end_of_a_worker_thought_dead(make_mesh: MakeMesh) -> None:
    async with make_mesh(control=controls.ZOMBIES) as mesh:
        evidence, found = await mesh.complaints()
    assert [complaint for complaint in found if "model calls for" not in complaint] == []
    assert len(evidence.select_events("work.discarded")) >= TASKS


@SHOWN
async def test_the_oracle_reports_ends_that_no_fence_kept_out(make_mesh: MakeMesh) -> None:
    async with make_mesh(control=controls.NO_FENCE) as mesh:
        await mesh.outcomes(TASKS)
        _, found = await mesh.complaints(seconds=5.0)
    assert sum("ended 2 times" in complaint for complaint in found) >= TASKS // 2


@SHOWN
async def test_the_oracle_reports_loss_where_the_broker_keeps_nothing_and_nobody_asks_again(
    make_mesh: MakeMesh,
) -> None:
    async with make_mesh(redrive_seconds=NEVER) as mesh:
        await lose_what_the_broker_keeps(mesh)
        _, found = await mesh.complaints(seconds=LOSS_SECONDS)
    assert any(complaint.startswith("lost: ") for complaint in found)


@SHOWN
async def test_the_oracle_reports_loss_where_a_message_is_acknowledged_before_it_is_durable(
    make_mesh: MakeMesh,
) -> None:
    async with make_mesh(control=dapr_controls.ACK_FIRST, redrive_seconds=NEVER) as mesh:
        await mesh.outcomes(1)  # however slow the machine, most messages are still to come
        mesh.replica.kill()
        await mesh.replica.start()
        _, found = await mesh.complaints(kills=1, seconds=LOSS_SECONDS)
    assert any(complaint.startswith("lost: ") for complaint in found)
