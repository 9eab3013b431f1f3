"""`mesh verify` of a whole store: silent on a sound one, one line with the place for each damage."""

import re
import shutil
import sqlite3
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest

from meshwright import Agent, Capability, Run
from meshwright.agents.run.erasure import Eraser
from meshwright.core.messages import Caller, TaskRequest, Usage
from meshwright.engine.events.task_lists import TaskSubject
from meshwright.engine.sql.database import Session
from meshwright.mesh.app import build_mesh
from meshwright.mesh.mesh import Mesh
from meshwright.mesh.orchestration.tasks import Tasks
from meshwright.models.port import ModelReply
from meshwright.parts.maintenance.verify import StoreVerification, verify_store
from meshwright.testing import ScriptedModel
from tests.support.faults.failpoints import Failpoints
from tests.support.faults.node import Job, mesh_of
from tests.support.faults.nodes import KILLED, Nodes
from tests.support.faults.plan import PLAN, judge
from tests.support.postgres import PASSWORD, USER, Address, Cluster
from tests.support.running_mesh import mesh as run_mesh
from tests.support.settings import Settings
from tests.support.sqlite_mesh import up

BLOCK = 2048  # events that are pruned at once


def findings(mesh: Mesh) -> StoreVerification:
    return verify_store(mesh.database, mesh.log.projections, mesh.database.migrations)


def of_folder(folder: Path) -> StoreVerification:
    return findings(mesh_of(Job(str(folder), PLAN), Failpoints()))


@pytest.fixture(scope="module")
def killed(nodes: Nodes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a mesh that is killed in the middle of its tasks."""
    folder = tmp_path_factory.mktemp("killed")
    assert nodes.run(replace(Job(str(folder), PLAN), point="model.before", nth=6)) == KILLED
    return folder


@pytest.fixture(scope="module")
def ended(nodes: Nodes, killed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same once all tasks have ended."""
    folder = tmp_path_factory.mktemp("ended") / "copy"
    shutil.copytree(killed, folder)
    assert nodes.run(Job(str(folder), PLAN)) == 0
    judge(folder, kills=1)  # which brings the lists up to date
    return folder


def test_a_store_is_sound_when_it_was_killed_and_when_all_has_ended(killed: Path, ended: Path) -> None:
    before, after = of_folder(killed), of_folder(ended)
    assert (before.faults, after.faults, after.notes) == ([], [], [])
    assert before.open_tasks > 0 == after.open_tasks
    assert after.lists > 0 and after.tasks >= len(PLAN) and after.events > before.events


AGAIN = (
    "INSERT INTO events SELECT (SELECT max(seq) + 1 FROM events), time, event_type, event_version, topic, "
    "tenant_id, task_id, agent_id, trace_id, traceparent, aggregate_id, NULL, 'again', idempotency_key, "
    "extra, payload, link FROM events WHERE event_type = '{}' LIMIT 1"
)
ONE = "(SELECT task_id FROM tasks WHERE status = '{}' LIMIT 1)"
HEAD = "type = 'Orchestrator' AND id = (SELECT id FROM heads WHERE type = 'Orchestrator' AND obliged LIMIT 1)"
DAMAGES = {
    "a row of a list": (
        f"UPDATE tasks SET agent_id = 'other' WHERE task_id = {ONE.format('succeeded')}",
        r"List tasks, row seq \d+ of task \w+: agent_id is 'other', and the events make it",
    ),
    "a row too few": (f"DELETE FROM tasks WHERE task_id = {ONE.format('succeeded')}", "List tasks.* missing"),
    "a row too many": (
        "INSERT INTO waits VALUES ('default', 'key', 'task', 1, 'timer', '', NULL, 0, NULL, NULL)",
        "List waits, row tenant_id default, wait_key key of task task: no event makes it",
    ),
    "a task": (
        f"DELETE FROM heads WHERE type = 'Orchestrator' AND id = {ONE.format('succeeded')}",
        r"Event \d+: task \w+ of tenant default was accepted, and has no record",
    ),
    "an outcome": (
        f"DELETE FROM events WHERE event_type = 'task.succeeded' AND task_id = {ONE.format('succeeded')}",
        r"Task \w+ of tenant default: it has ended \(succeeded\), and no event says so",
    ),
    "two outcomes": (AGAIN.format("task.succeeded"), "has 2 outcomes in generation 1"),
    "two ends of an attempt": (AGAIN.format("attempt.ended"), "ended attempt 1 2 times in generation 1"),
    "two claims": (AGAIN.format("task.started"), r"is claimed under fence \d+, and the claim before it was"),
    "a number of an actor": (
        "UPDATE heads SET sent = 0 WHERE type = 'Orchestrator'",
        r"Actor Orchestrator/\w+: it has published number \d+, and knows of 0",
    ),
    "a record": (
        "UPDATE heads SET state = CAST('{' AS BLOB) WHERE type = 'Orchestrator'",
        "its record cannot be read",
    ),
}
OPEN_DAMAGES = {
    "a start": (f"UPDATE heads SET obliged = 0 WHERE {HEAD}", r"it is open \(\w+\), and no start resumes it"),
    "its thread": (
        "DELETE FROM heads WHERE type IN ('clerk', 'finder', 'manager')",
        r"it is open, and neither its thread \w+/default:\w+ nor a message has it",
    ),
}


def damaged(source: Path, folder: Path, statement: str) -> list[str]:
    shutil.copytree(source, folder, dirs_exist_ok=True)
    with sqlite3.connect(folder / "data" / "mesh.db") as store:
        assert store.execute(statement).rowcount > 0
    return of_folder(folder).faults


@pytest.mark.parametrize("damage", DAMAGES)
def test_each_damage_is_a_line_with_its_place(ended: Path, tmp_path: Path, damage: str) -> None:
    statement, said = DAMAGES[damage]
    faults = damaged(ended, tmp_path, statement)
    assert any(matches(said, fault) for fault in faults), faults


@pytest.mark.parametrize("damage", OPEN_DAMAGES)
def test_an_open_task_that_nobody_has_is_named(killed: Path, tmp_path: Path, damage: str) -> None:
    statement, said = OPEN_DAMAGES[damage]
    faults = damaged(killed, tmp_path, statement)
    assert any(matches(said, fault) for fault in faults), faults


def matches(pattern: str, text: str) -> bool:
    return re.search(pattern, text) is not None


class Helper(Agent):
    """Asks once."""

    agent_id = "helper"
    capabilities = (Capability("helping"),)

    async def run(self, run: Run) -> str:
        return await run.ask(run.task.text)


class Payer(Agent):
    """Has a helper ask, and asks."""

    agent_id = "payer"
    capabilities = (Capability("paying"),)
    delegates_to = ("helper",)

    async def run(self, run: Run) -> str:
        if run.task.text == "both":
            await run.delegate("helper", "one")
        return await run.ask(run.task.text)


async def test_an_outcome_that_costs_other_than_its_calls_is_named(tmp_path: Path) -> None:
    usage = Usage(prompt_tokens=100, completion_tokens=10)
    replies = [
        ModelReply(content="Paid.", model="m", usage=usage, cost_usd=Decimal(f"0.{n}")) for n in (1, 2)
    ]
    settings, model = Settings(data_dir=tmp_path), ScriptedModel(*replies)
    async with build_mesh(settings, project=tmp_path, agents=[Payer, Helper], model=model) as mesh:
        request = TaskRequest(agent_id="payer", payload={"text": "both"})
        task_id = (await mesh.get(Tasks).submit(request)).task_id
        assert (await mesh.get(Tasks).outcome(task_id)).cost_usd == Decimal("0.3")
        await mesh.log.flush()
        assert findings(mesh).faults == []
    with sqlite3.connect(tmp_path / "mesh.db") as store:
        store.execute(
            "UPDATE events SET payload = CAST(replace(CAST(payload AS TEXT), '0.2', '0.7') AS BLOB) "
            "WHERE event_type = 'model.called'"
        )
    faults = findings(build_mesh(settings, project=tmp_path, agents=[Payer, Helper], model=model)).faults
    assert (
        f"Task {task_id} of tenant default: its outcome says $0.3, and its calls of models cost $0.8"
        in faults
    )


async def test_what_was_erased_or_pruned_is_no_deviation(tmp_path: Path) -> None:
    async with up(tmp_path, durability="normal") as running:
        mesh = running.mesh
        first = (await running.ask("echo")).task_id
        await mesh.get(Eraser).erase(Caller(all_tenants=True), TaskSubject(task_id=first))
        waiting = await running.submit("gate")
        await mesh.log.flush()
        assert findings(mesh).faults == []
        while await mesh.log.last_seq() < BLOCK + 10:
            tasks = [await running.submit("echo") for _ in range(100)]
            [await running.outcome(task_id) for task_id in tasks]
        assert await mesh.log.prune(max_events=1) == BLOCK - 1
        await mesh.log.flush()
        found = findings(mesh)
        assert (found.faults, found.open_tasks) == ([], 1)
        assert found.notes and (await mesh.get(Tasks).task(waiting)).status == "running"


async def test_a_store_on_postgresql_is_compared_too(postgres_url: Address, tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, database=postgres_url)
    async with build_mesh(
        settings, project=tmp_path, agents=[Payer, Helper], model=ScriptedModel("Paid.")
    ) as mesh:
        request = TaskRequest(agent_id="payer", payload={"text": "one"})
        task_id = (await mesh.get(Tasks).submit(request)).task_id
        await mesh.get(Tasks).outcome(task_id)
        await mesh.log.flush()
        sound = findings(mesh)
        assert (sound.faults, sound.tasks) == ([], 1)
        await mesh.database.write(rename)
        [fault] = findings(mesh).faults
        assert matches(f"List tasks, row seq .* of task {task_id}: agent_id is 'other', .*'payer'", fault)


@pytest.mark.parametrize("options", [["--audit"], []], ids=["log", "all"])
@pytest.mark.parametrize(
    ("right", "grant", "remedy"),
    [
        ("CONNECTION LIMIT 0", "USAGE", "aise max_connections of the server, or CONNECTION LIMIT"),
        ("", "USAGE", "GRANT USAGE"),
        ("", "CREATE", "the role may not use their schema"),
    ],
)
async def test_what_the_server_refuses_is_said_with_the_remedy(
    postgres: Cluster, tmp_path: Path, right: str, grant: str, remedy: str, options: list[str]
) -> None:
    url = postgres.new_schema()
    async with build_mesh(Settings(data_dir=tmp_path, database=url), project=tmp_path, agents=[]):
        pass
    role = f"poor_{url.rpartition('_')[2]}"  # it may not read the tables
    postgres.query(f"CREATE ROLE {role} LOGIN PASSWORD '{PASSWORD}' {right}")
    postgres.query(f"GRANT {grant} ON SCHEMA {url.rpartition('%3D')[2]} TO {role}")
    address = str(url).replace(f"//{USER}:", f"//{role}:")
    done = await run_mesh("verify", "--data", str(tmp_path), *options, MESH_DATABASE=address)
    assert done.status != 0 and "unexpected" not in done.err and "raceback" not in done.err, done.err
    assert "PostgreSQL 'mesh' on 127.0.0.1 failed: " in done.err and remedy in done.err, done.err
    assert PASSWORD not in done.err


def rename(session: Session) -> None:
    session.execute("UPDATE tasks SET agent_id = 'other'")


async def test_the_command_reports_and_fails(ended: Path, tmp_path: Path) -> None:
    shutil.copytree(ended, tmp_path, dirs_exist_ok=True)
    done = await run_mesh("verify", "--data", str(tmp_path / "data"))
    assert done.status == 0 and "8 lists compared with" in done.out and not done.err
    damaged(ended, tmp_path, DAMAGES["a row of a list"][0])
    done = await run_mesh("verify", "--data", str(tmp_path / "data"))
    assert done.status == 1 and "mesh: List tasks, row seq" in done.err
