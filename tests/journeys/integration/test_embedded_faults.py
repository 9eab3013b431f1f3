"""Kill -9 at every arrow of the protocol and at random: every accepted task goes on by itself, and ends once.

The oracle decides: see (runtime/meshwright/parts/proving/oracle.py); test_fault_oracle.py shows what it sees.
The soak kills a writer process too (test_soak.py).
"""

import json
import random
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from meshwright.core.events import Event
from meshwright.engine.events.filter import EventFilter
from meshwright.engine.kernel.envelope import ActorRef
from meshwright.mesh.orchestration.tasks import Tasks
from meshwright.money.balance import Balance
from meshwright.parts.proving.oracle import complaints
from meshwright.parts.proving.records import Records
from meshwright.parts.proving.workload import PlannedTask
from tests.run import SOAKING
from tests.support.faults import controls
from tests.support.faults.evidence import gather
from tests.support.faults.failpoints import Failpoints
from tests.support.faults.node import Job, mesh_of
from tests.support.faults.nodes import KILLED, Nodes
from tests.support.faults.plan import PLAN, judge

TASKS = 1000
KILLS = 20
TASKS_OF_A_WRITER = 300
KILLS_OF_A_WRITER = TASKS_OF_A_WRITER * KILLS // TASKS

TURNS = (
    "task.accept",
    "thread.enqueue",
    "thread.claim",
    "thread.complete",
    "task.settle",
    "thread.suspend",
    "thread.resume",
    "task.cancel",
    "thread.cancel",
)
CALLED = ("task.accept", "thread.claim", "thread.complete", "thread.suspend", "task.cancel")
STAGES = ("before", "after", "uncommitted", "committed")
ARROWS = [
    *(f"{turn}.{stage}" for turn in (*TURNS, "journal") for stage in STAGES),
    *(f"{turn}.replied" for turn in CALLED),
    *(f"{step}.{stage}" for step in ("model", "look_up") for stage in ("before", "after")),
    *(f"client.{what}" for what in ("accepted", "cancelled", "told")),
]
RECOVERY = (
    "start.before",
    "start.after",
    *(f"{turn}.recover.{stage}" for turn in ("task", "thread") for stage in ("before", "after")),
    "thread.recover.uncommitted",
    "thread.recover.committed",
)


NOT_DURABLE = pytest.mark.soak("what is not committed yet is as without a writer process")
TURNS_A_ROUND = {"in one commit": 64, "in many commits": 1}


@pytest.fixture(scope="module")
def passages(nodes: Nodes, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Counter[str]]:
    """How often a run of the plan passes each point, where nothing kills it."""
    counts = {}
    for turns, number in TURNS_A_ROUND.items():
        job = Job(str(tmp_path_factory.mktemp("unharmed")), PLAN, max_turns_a_round=number)
        [passed] = [line for line in nodes.start(job) if line.startswith("passed ")]
        counts[turns] = Counter[str](json.loads(passed.removeprefix("passed ")))
    return counts


# A failpoint on each arrow


def kills() -> Iterator[tuple[str, str, str]]:
    """Every point with a passage and a size of commits in turn; all combinations when soaking."""
    for number, point in enumerate(ARROWS):
        for place, which in enumerate(("first", "any")):
            for size, turns in enumerate(TURNS_A_ROUND):
                if SOAKING or number % 4 == 2 * place + size:
                    yield point, which, turns


@pytest.mark.parametrize(("point", "which", "turns"), list(kills()))
def test_a_kill_on_any_arrow_loses_nothing_and_doubles_nothing(
    nodes: Nodes,
    passages: dict[str, Counter[str]],
    tmp_path: Path,
    rng: random.Random,
    point: str,
    which: str,
    turns: str,
) -> None:
    most = max(1, passages[turns][point] * 9 // 10)  # how many there are in all depends on timing
    nth = 1 if which == "first" else rng.randint(1, most)
    job = Job(str(tmp_path), PLAN, max_turns_a_round=TURNS_A_ROUND[turns])
    assert nodes.run(replace(job, point=point, nth=nth)) == KILLED, f"passage {nth} of {point} never came"
    again = nodes.run(replace(job, point=point))  # and once more, where what is left to do comes by there
    assert again in (0, KILLED)
    assert nodes.run(job) == 0
    judge(tmp_path, kills=1 + (again == KILLED))


@pytest.mark.parametrize("point", RECOVERY)
def test_a_kill_during_recovery_loses_nothing_and_doubles_nothing(
    nodes: Nodes, passages: dict[str, Counter[str]], tmp_path: Path, rng: random.Random, point: str
) -> None:
    job = Job(str(tmp_path), PLAN)
    nth = rng.randint(1, passages["in one commit"]["model.before"] - 1)
    assert nodes.run(replace(job, point="model.before", nth=nth)) == KILLED
    assert nodes.run(replace(job, point=point)) == KILLED
    assert nodes.run(job) == 0
    judge(tmp_path, kills=2)


@pytest.mark.parametrize(
    ("point", "nth"), [("journal.committed", 2), ("thread.complete.committed", 1), ("client.told", 1)]
)
def test_a_kill_leaves_no_journaled_call_reserved_or_estimated(
    nodes: Nodes, tmp_path: Path, point: str, nth: int
) -> None:
    budget = {"name": "all", "limit_usd": "100000"}
    settings = {"ledger": {"budgets": [budget], "default_price": {"input": "0", "output": "1000000"}}}
    job = Job(str(tmp_path), PLAN[:1], settings=settings, control=controls.LATE_BOOKS)
    assert nodes.run(replace(job, point=point, nth=nth)) == KILLED
    assert nodes.run(job) == 0
    evidence = judge(tmp_path, kills=1, plan=PLAN[:1])
    state = evidence.heads[ActorRef("budget-account", "all:mesh")].state
    balance = Balance.model_validate_json(state)
    assert (balance.reserved, balance.estimated, evidence.model_calls) == (0, 0, 1)


@pytest.mark.parametrize(
    "point", [f"{turn}.{stage}" for turn in ("task.wake", "thread.cancel") for stage in STAGES]
)
def test_a_kill_at_a_deadline_leaves_one_outcome_timed_out(nodes: Nodes, tmp_path: Path, point: str) -> None:
    plan = [PlannedTask("hang 1", "clerk", deadline=0.2), PlannedTask("plain 2", "clerk")]
    job = Job(str(tmp_path), plan)
    assert nodes.run(replace(job, point=point)) == KILLED
    assert nodes.run(job) == 0
    evidence = judge(tmp_path, kills=1, plan=plan)
    assert Counter(status for _, status in evidence.reported) == {"timed_out": 1, "succeeded": 1}


# A tool that must not be repeated

CHARGE = [PlannedTask("charge 1", "finder")]
INTENT, RESULT = 3, 4  # of the records of its steps: after those of the context and of the first model call


@pytest.mark.parametrize(
    ("point", "nth", "effects"),
    [
        pytest.param("journal.committed", INTENT, 0, id="intent durable"),
        pytest.param("charge.before", 1, 0, id="before the effect"),
        pytest.param("charge.after", 1, 1, id="after the effect"),
        pytest.param("journal.before", RESULT, 1, id="before the result is journaled"),
        pytest.param("journal.uncommitted", RESULT, 1, id="before the result is durable"),
    ],
)
async def test_a_tool_that_may_have_run_waits_for_a_person_who_says_what_came_of_it(
    nodes: Nodes, tmp_path: Path, point: str, nth: int, effects: int
) -> None:
    job = Job(str(tmp_path), CHARGE)
    assert nodes.run(replace(job, point=point, nth=nth)) == KILLED
    task_id = controls.task_id_of("charge 1")
    async with mesh_of(job, Failpoints()) as mesh:
        waiting = await first(
            mesh.log.tail(EventFilter(task_id=task_id, event_type="task.waiting", after_seq=0))
        )
        assert waiting.payload["subject"]["kind"] == "tool charge"
        assert json.loads(waiting.payload["subject"]["request"]["arguments"]) == {"word": CHARGE[0].text}
        assert (await mesh.get(Tasks).task(task_id)).status == "waiting"
        answer = {"approve": False, "reason": "it was charged: receipt 17"}
        await mesh.get(Tasks).answer(task_id, waiting.payload["key"], answer)
        outcome = await mesh.get(Tasks).outcome(task_id)
    assert (outcome.status, outcome.text) == ("succeeded", "answered: it was charged: receipt 17")
    assert len(Records(tmp_path).effects.read()) == effects
    assert complaints(await gather(tmp_path, kills=1)) == []


@pytest.mark.parametrize(
    ("point", "nth"),
    [("journal.before", INTENT), ("journal.uncommitted", INTENT), ("journal.committed", RESULT)],
)
def test_a_tool_that_has_surely_not_run_or_surely_ended_needs_nobody(
    nodes: Nodes, tmp_path: Path, point: str, nth: int
) -> None:
    job = Job(str(tmp_path), CHARGE)
    assert nodes.run(replace(job, point=point, nth=nth)) == KILLED
    assert nodes.run(job) == 0
    judge(tmp_path, kills=1, plan=CHARGE)
    assert len(Records(tmp_path).effects.read()) == 1


def test_kills_during_the_very_first_starts_leave_nothing_that_stops_the_next(
    nodes: Nodes, tmp_path: Path, rng: random.Random
) -> None:
    job = Job(str(tmp_path), PLAN)
    for _ in range(10):
        lines = nodes.start(job)
        time.sleep(rng.uniform(0, 0.03))  # chance decides how far the start comes
        nodes.kill()
        assert list(lines)[-1] in (f"exit {KILLED}", "exit 0")
    assert nodes.run(job) == 0
    judge(tmp_path, kills=10)


async def first(events: Any) -> Event:
    async for event in events:
        await events.aclose()
        return event
    raise AssertionError("there is none")


# At random, under load


def test_a_thousand_tasks_survive_twenty_kills_at_random(
    nodes: Nodes, tmp_path: Path, rng: random.Random, seed: int, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = [load(number, rng) for number in range(TASKS)]
    job = Job(str(tmp_path), plan, max_model_seconds=0.01)
    deaths = Counter(run_and_kill(nodes, job, rng) for _ in range(KILLS))
    assert nodes.run(job) == 0
    evidence = judge(tmp_path, kills=KILLS, plan=plan)
    steps = len(evidence.select_events("model.called"))
    with capsys.disabled():
        print(
            f"\nseed {seed}: {TASKS} tasks, {KILLS} kills ({dict(deaths)}), {len(evidence.events)} events, "
            f"{evidence.model_calls} model calls for {steps} steps"
        )
    assert deaths.total() == KILLS
    assert evidence.select_events("task.resumed"), "no kill met work under way"


def test_hundreds_of_tasks_survive_kills_of_the_mesh_and_of_its_writer(
    nodes: Nodes, tmp_path: Path, rng: random.Random
) -> None:
    plan = [load(number, rng) for number in range(TASKS_OF_A_WRITER)]
    job = Job(str(tmp_path), plan, max_model_seconds=0.01, settings={"writer": "process"})
    deaths = Counter(
        run_and_kill(nodes, job, rng, writer=number % 2 == 1) for number in range(KILLS_OF_A_WRITER)
    )
    assert nodes.run(job) == 0
    evidence = judge(tmp_path, kills=KILLS_OF_A_WRITER, plan=plan)
    assert deaths.total() == KILLS_OF_A_WRITER
    assert evidence.select_events("task.resumed"), "no kill met work under way"


@pytest.mark.parametrize(
    "stage", [*(pytest.param(stage, marks=NOT_DURABLE) for stage in ("before", "after")), "committed"]
)
@pytest.mark.parametrize("turn", TURNS)
def test_a_kill_on_an_arrow_beside_a_writer_process_loses_nothing(
    nodes: Nodes, tmp_path: Path, turn: str, stage: str
) -> None:
    job = Job(str(tmp_path), PLAN, settings={"writer": "process"})
    assert nodes.run(replace(job, point=f"{turn}.{stage}")) == KILLED
    assert nodes.run(job) == 0
    judge(tmp_path, kills=1)


def load(number: int, rng: random.Random) -> PlannedTask:
    """A task for load: of a third of them several share a thread."""
    shape, agent_id = rng.choice([("plain", "clerk"), ("find", "finder"), ("ask", "manager")])
    thread_id = f"thread-{rng.randrange(50)}" if rng.random() < 0.33 else None
    return PlannedTask(f"{shape} {number}", agent_id, thread_id)


def run_and_kill(nodes: Nodes, job: Job, rng: random.Random, *, writer: bool = False) -> str:
    """Kill a child as it starts, as it recovers, or after some of its tasks have ended; returns which.

    With `writer` the process that writes for it is killed first, if it has one by then.
    """
    when = rng.choice(["starting", "recovering", "working", "working", "working"])
    wanted = {"starting": 0, "recovering": 1, "working": rng.randint(2, TASKS // KILLS // 2)}[when]
    lines = nodes.start(job)
    for _ in range(wanted):
        line = next(lines)
        assert not line.startswith("exit "), "the plan was done before the kill"
    time.sleep(rng.uniform(0, 0.02))  # nothing is waited for: chance decides how far the child comes
    if writer:
        nodes.kill_writer()
        time.sleep(rng.uniform(0, 0.05))
    nodes.kill()
    *_, last = lines
    assert last == f"exit {KILLED}"
    return when
