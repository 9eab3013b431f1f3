"""`mesh check --live` makes one real call for each agent, within its budgets."""

import asyncio
import os
from pathlib import Path

import pytest

from tests.support.fake_provider import FakeProvider, Fault
from tests.support.mesh_forks import run_forked
from tests.support.running_mesh import Done, mesh_up

ACTORS = """\
from meshwright import Agent, Capability, Run, Task

class Shop(Agent):
    agent_id = "shop"
    capabilities = (Capability("selling"),)
    prompt_text = "You sell jam."

class Mirror(Agent):
    agent_id = "mirror"
    capabilities = (Capability("mirroring"),)

    async def run(self, task: Task, run: Run) -> str:
        return task.text
"""
PRICED = """\
[[ledger.budgets]]
name = "day"
limit_usd = "5"
window = "day"
[ledger.default_price]
input = 3
output = 15
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "actors").mkdir()
    (tmp_path / "actors" / "shop.py").write_text(ACTORS)
    (tmp_path / "mesh.toml").write_text(PRICED)
    return tmp_path


async def check(project: Path, url: str) -> Done:
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    environment = {**kept, "LITELLM_BASE_URL": url, "MESH_MODEL": "qwen3"}
    code, out, err = await asyncio.to_thread(run_forked, ("check", "--live"), environment, project)
    return Done(code, out.decode(), err.decode())


def line(done: Done, name: str) -> str:
    return next(line for line in done.out.splitlines() if " live " in line and name in line)


async def test_a_call_is_made_within_the_budget_and_begins_no_task(project: Path, fake: FakeProvider) -> None:
    done = await check(project, fake.url)
    assert done.status == 0, done
    assert "shop can answer: qwen3, $0.0001 for this call, no task has ended yet, 36,2" in line(done, "shop")
    assert line(done, "shop").endswith(" such calls in today's budget")
    assert "mirror: not tried" in line(done, "mirror")
    [call] = fake.calls
    assert (call.body["user"], call.body["max_tokens"]) == ("shop", 16)
    fake.faults.append(Fault(status=401))
    refused = await check(project, fake.url)
    assert refused.status == 1 and line(refused, "shop").startswith("FAIL")
    assert "shop cannot answer" in line(refused, "shop") and "refused the credentials" in line(
        refused, "shop"
    )


async def test_a_budget_without_room_fails_with_the_remedy(project: Path, fake: FakeProvider) -> None:
    (project / "mesh.toml").write_text(PRICED.replace('"5"', '"0.0001"'))
    spent = await check(project, fake.url)
    assert spent.status == 1 and "mesh budgets raise day USD" in line(spent, "shop")
    assert fake.calls == []


async def test_a_running_mesh_makes_the_call_and_knows_what_a_task_costs(
    project: Path, fake: FakeProvider
) -> None:
    async with mesh_up(
        project / ".mesh", cwd=project, LITELLM_BASE_URL=fake.url, MESH_MODEL="qwen3"
    ) as running:
        outcome = await running.client.ask(capability="selling", text="Jam?")
        assert outcome.error is None
        done = await check(project, fake.url)
    assert done.status == 0, done
    assert "shop can answer: qwen3, $0.0001 a task, 36,2" in line(done, "shop")
    assert "tasks in today's budget" in line(done, "shop")
    assert fake.calls[-1].body["user"] == "shop"
