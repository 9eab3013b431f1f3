"""Each call of a model, step and outcome says which version of which prompt it used."""

import asyncio
import hashlib
import os
import subprocess
from pathlib import Path

import pytest

from meshwright import Agent, Capability, Client
from meshwright.agents.prompts import CodePrompt, Prompts
from meshwright.agents.prompts.history import find_checkout
from meshwright.agents.run.run import Run
from meshwright.core.errors import ModelError
from meshwright.core.messages import Outcome
from meshwright.engine.events.filter import EventFilter
from meshwright.mesh.orchestration.tasks import Tasks
from meshwright.testing import MeshUnderTest, ScriptedModel, mesh_for, tool_call
from tests.support.interrupted_mesh import keeper, kept, told_of

TEXT = "---\ntags: [a]\nvariables: [task]\n---\nKeep {{task}}."
DIGEST = hashlib.sha256(TEXT.encode()).hexdigest()[:12]


class Keeper(Agent):
    """Answers at once."""

    agent_id = "keeper"
    capabilities = (Capability("keeping", preferred=True),)


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=Ada", "-c", "user.email=ada@example.org", "-c", "init.defaultBranch=main")
    hermetic = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
    command = ["git", *identity, *arguments]
    return subprocess.run(
        command, cwd=folder, env=hermetic, check=True, capture_output=True, text=True
    ).stdout.strip()


def committed(folder: Path) -> str:
    git(folder, "add", ".")
    git(folder, "commit", "-q", "-m", "change")
    return git(folder, "rev-parse", "HEAD")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project in git, with the prompt of the keeper."""
    (tmp_path / "app/prompts").mkdir(parents=True)
    (tmp_path / "app/prompts/keeper.prompt").write_text(TEXT)
    git(tmp_path, "init", "-q")
    return tmp_path / "app"


async def calls_of(mesh: MeshUnderTest, task_id: str) -> list[str | None]:
    wanted = EventFilter(task_id=task_id, event_type="model.called")
    return [event.fields.get("prompt") async for event in mesh.mesh.log.replay(wanted)]


@pytest.mark.needs("git")
async def test_call_step_and_outcome_say_the_version_of_the_prompt(project: Path) -> None:
    revision = committed(project)
    async with mesh_for(Keeper, model=ScriptedModel("Kept."), project=project) as mesh:
        outcome = await mesh.ask("keeper", "notes")
        steps = await Client.local(mesh.mesh).steps(outcome.task_id)
        called = await calls_of(mesh, outcome.task_id)
    version = f"keeper@{DIGEST} {revision[:12]}:app/prompts/keeper.prompt"
    assert outcome.prompt == version
    assert called == [version]
    assert [(step.kind, step.prompt) for step in steps] == [("context", version), ("model", version)]


async def test_failed_task_says_the_version_of_its_prompt(tmp_path: Path) -> None:
    (tmp_path / "prompts").mkdir()
    (tmp_path / "prompts/keeper.prompt").write_text(TEXT)
    async with mesh_for(Keeper, model=ScriptedModel(*[ModelError("no")] * 9), project=tmp_path) as mesh:
        receipt = await mesh.submit(agent_id="keeper", payload={"text": "x"})
        outcome = await mesh.mesh.get(Tasks).outcome(receipt.task_id)
        called = await calls_of(mesh, receipt.task_id)
    assert not outcome.success
    assert outcome.prompt == f"keeper@{DIGEST} prompts/keeper.prompt"
    assert set(called) == {outcome.prompt}


async def test_prompts_of_code_and_built_in_ones_name_their_place(tmp_path: Path) -> None:
    prompts = Prompts(
        tmp_path, in_code={"terse": CodePrompt("Be terse.", "Terse", str(tmp_path / "terse.py"))}
    )
    places = [prompts.resolve(name).version.partition(" ")[2] for name in ("terse", "missing")]
    assert places == [f"{tmp_path.name}/terse.py", "built-in"]


async def test_resumed_run_keeps_the_version_that_it_began_with(tmp_path: Path) -> None:
    (tmp_path / "prompts").mkdir()
    file = tmp_path / "prompts/keeper.prompt"
    file.write_text(TEXT)
    agent = keeper()
    async with kept(tmp_path, agent, model=ScriptedModel(tool_call("hold"))) as mesh:
        receipt = await Client.local(mesh).submit(agent_id="keeper", payload={"text": "x"})
        await agent.began.wait()
    file.write_text(TEXT.replace("Keep", "Lose"))
    async with kept(tmp_path, keeper(opened=True), model=ScriptedModel("Held.")) as mesh:
        await told_of(mesh, "task.succeeded")
        outcome = await mesh.get(Tasks).outcome(receipt.task_id)
    assert outcome.prompt == f"keeper@{DIGEST} prompts/keeper.prompt"


async def test_run_without_a_call_names_no_prompt() -> None:
    class Silent(Keeper):
        async def run(self, run: Run) -> str:
            await asyncio.sleep(0)
            return "done"

    async with mesh_for(Silent) as mesh:
        assert (await mesh.ask("keeper", "x")).prompt is None


def test_outcomes_of_before_have_no_version() -> None:
    stored = {"task_id": "t", "agent_id": "a", "status": "failed", "success": False}
    assert Outcome.model_validate({**stored, "completed_at": "2026-01-01T00:00:00Z"}).prompt is None


@pytest.mark.needs("git")
def test_reload_reads_the_revision_of_a_new_commit(project: Path) -> None:
    first = committed(project)
    prompts = Prompts(project / "prompts")
    assert f" {first[:12]}:" in prompts.resolve("keeper").version
    (project / "other").touch()
    second = committed(project)
    assert prompts.reload() == []
    place = prompts.resolve("keeper").version.partition(" ")[2]
    assert place.startswith(f"{second[:12]}:")
    assert git(project, "show", place) == TEXT


@pytest.mark.needs("git")
def test_revision_is_found_packed_detached_and_in_linked_work_trees(project: Path, tmp_path: Path) -> None:
    revision = committed(project)
    git(project, "worktree", "add", "-q", str(tmp_path / "linked"), "-b", "side")
    git(project, "pack-refs", "--all")
    linked = find_checkout(tmp_path / "linked/app/prompts")
    git(project, "checkout", "-q", "--detach")
    detached = find_checkout(project)
    assert linked is not None
    assert detached is not None
    assert (linked.root, linked.revision) == (tmp_path / "linked", revision)
    assert (detached.root, detached.revision) == (tmp_path, revision)


@pytest.mark.parametrize("head", ["ref: refs/heads/none", "ref: ../secret", "nonsense", ""])
def test_odd_repositories_have_no_revision(tmp_path: Path, head: str) -> None:
    (tmp_path / ".git").mkdir()
    (tmp_path / "secret").write_text("a secret")
    (tmp_path / ".git/HEAD").write_text(head)
    found = find_checkout(tmp_path)
    assert found is not None
    assert found.revision is None
