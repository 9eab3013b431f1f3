"""A job on code whose mesh is killed at every step: edited once, run once, committed once."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from meshwright.testing import tool_call as call
from tests.support.postgres import Address
from tests.support.repositories import git, repository
from tests.support.running_mesh import RunningMesh, mesh, mesh_up
from tests.support.scripted_provider import ScriptedProvider

pytestmark = pytest.mark.needs("git", "bwrap")

AGENT = """
from meshwright import Agent, Capability
from meshwright.toolsets.code import CodeTools


class Coder(Agent):
    agent_id = "coder"
    capabilities = (Capability("bug-fix"),)
    toolsets = (CodeTools,)
    prompt_text = "You fix bugs."
"""
CONFIG = """
model_list:
  - model_name: default
    litellm_params: {{model: openai/scripted, api_base: "{url}/v1", api_key: sk-fake, tags: [default]}}
    model_info: {{max_input_tokens: 128000}}
"""
JOB = (
    call("run_tests"),
    call("edit", path="calc.py", old="a - b", new="a + b"),
    call("run", command="echo line >> log.txt"),
    call("write", path="docs/calc.md", text="It adds.\n"),
    call("run_tests"),
    call("propose", title="Add numbers"),
)
SLOW = (
    call("run", command="echo line >> log.txt; rm calc.py; sleep 2; git init -q; echo done > calc.py"),
    call("propose", title="Log"),
)
_LOOK_SECONDS = 0.02


class Job:
    """A task of the agent, in a project of its own."""

    def __init__(self, folder: Path, provider: ScriptedProvider) -> None:
        self.source = repository(folder / "source")
        self.data, self._provider = folder / "data", provider
        for name, text in (("actors/coder.py", AGENT), ("litellm.yaml", CONFIG.format(url=provider.url))):
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(text)
        self.environment = {
            "MESH_AGENTS__DIR": str(folder / "actors"),
            "MESH_MODELS__CONFIG": str(folder / "litellm.yaml"),
            "MESH_MODELS__ADAPTER": "router",
            "MESH_TREES__CALC__REPOSITORY": str(self.source),
        }

    async def submit(self, running: RunningMesh) -> str:
        receipt = await running.client.submit("coder", "Fix it.", idempotency_key="job")
        return receipt.task_id

    async def question(self, running: RunningMesh) -> Any:
        while not (found := await running.client.inbox()):
            await asyncio.sleep(_LOOK_SECONDS)
        return found[0]

    async def finish(self, running: RunningMesh) -> dict[str, Any]:
        """Let it go on to its end, and return the outcome."""
        self._provider.holds = {}
        return await running.outcome(await self.submit(running))

    def tree(self, task_id: str, data: Path | None = None) -> Path:
        return (data or self.data) / "trees" / "default" / task_id

    def committed(self, task_id: str, data: Path | None = None) -> dict[str, str]:
        """The files of the one commit that was made."""
        clone = self.tree(task_id, data) / "repo.git"
        branch = f"mesh/{task_id}"
        assert git(clone, "rev-list", "--count", f"main..{branch}") == "1\n"
        names = git(clone, "ls-tree", "-r", "--name-only", branch).split()
        return {name: git(clone, "show", f"{branch}:{name}") for name in names}


async def calls_of(running: RunningMesh, task_id: str) -> Counter[str]:
    story = await running.story(task_id)
    return Counter(event["payload"]["tool"] for event in story if event["event_type"] == "tool.called")


async def test_a_job_is_done_once_however_often_its_mesh_is_killed(tmp_path: Path) -> None:
    async with ScriptedProvider() as provider:
        provider.follow({"coder": JOB})
        job = Job(tmp_path, provider)
        for results in range(len(JOB)):
            provider.holds = {"coder": results}
            async with mesh_up(job.data, **job.environment) as running:
                task_id = await job.submit(running)
                await provider.until_held(("coder", results))
                await running.kill()
        provider.holds = {"coder": len(JOB)}
        async with mesh_up(job.data, **job.environment) as running:
            await job.question(running)
            await running.kill()
        async with mesh_up(job.data, **job.environment) as running:
            question = await job.question(running)
            assert "+    return a + b" in question.subject["effect"]
            await running.client.answer(question, {"approve": True})
            await provider.until_held(("coder", len(JOB)))
            await running.kill()
        async with mesh_up(job.data, **job.environment) as running:
            outcome = await job.finish(running)
            calls = await calls_of(running, task_id)
            listed = await mesh("trees", "list", "--json", "--data", str(job.data))
            shown = await mesh("trees", "show", task_id, "--data", str(job.data))
            diff = await mesh("trees", "diff", task_id, "--data", str(job.data))
            unknown = await mesh("trees", "show", "nothing", "--data", str(job.data))
    assert [tree["task_id"] for tree in json.loads(listed.out)] == [task_id]
    assert f"git fetch {job.tree(task_id)}/repo.git mesh/{task_id}" in shown.out
    assert shown.out.endswith("M calc.py\nA docs/calc.md\nA log.txt\n")
    (tmp_path / "job.patch").write_text(diff.out)
    git(job.source, "apply", "--check", str(tmp_path / "job.patch"))
    assert "There is no tree of task nothing" in unknown.err
    assert outcome["result"] == {"text": "Done."}, outcome["error"]
    assert calls == Counter(made.name for made in JOB)
    files = job.committed(task_id)
    assert files["calc.py"] == "def add(a, b):\n    return a + b\n"
    assert (files["log.txt"], files["docs/calc.md"]) == ("line\n", "It adds.\n")
    assert set(files) == {"calc.py", "test_calc.py", "log.txt", "docs/calc.md"}


async def test_a_command_that_is_killed_in_the_middle_is_run_from_the_beginning(tmp_path: Path) -> None:
    async with ScriptedProvider() as provider:
        provider.follow({"coder": SLOW})
        provider.holds = {"coder": len(SLOW)}
        job = Job(tmp_path, provider)
        for _ in range(2):
            async with mesh_up(job.data, **job.environment) as running:
                task_id = await job.submit(running)
                tree = job.tree(task_id) / "tree"
                while not (tree / "log.txt").exists() or (tree / "calc.py").exists():
                    await asyncio.sleep(_LOOK_SECONDS)
                await running.kill()
        async with mesh_up(job.data, **job.environment) as running:
            question = await job.question(running)
            await running.client.answer(question, {"approve": True})
            outcome = await job.finish(running)
    assert outcome["result"] == {"text": "Done."}, outcome["error"]
    files = job.committed(task_id)
    assert (files["log.txt"], files["calc.py"]) == ("line\n", "done\n")


async def test_a_job_whose_tree_is_gone_does_not_begin_with_other_files(tmp_path: Path) -> None:
    async with ScriptedProvider() as provider:
        provider.follow({"coder": JOB[:3]})
        provider.holds = {"coder": 2}
        job = Job(tmp_path, provider)
        async with mesh_up(job.data, **job.environment) as running:
            task_id = await job.submit(running)
            await provider.until_held(("coder", 2))
            await running.kill()
        shutil.rmtree(job.tree(task_id))
        async with mesh_up(job.data, **job.environment) as running:
            await job.finish(running)
            story = await running.story(task_id)
    last = [event["payload"] for event in story if event["event_type"] == "tool.called"][-1]
    assert (last["tool"], last["ok"]) == ("run", False)
    assert "the files that this task has changed are gone" in last["error"]
    assert not job.tree(task_id).exists()


async def test_a_worker_on_another_machine_goes_on_where_one_was_killed(
    tmp_path: Path, postgres_url: Address
) -> None:
    async with ScriptedProvider() as provider:
        provider.follow({"coder": JOB})
        provider.holds = {"coder": 4}
        job = Job(tmp_path, provider)
        environment = {**job.environment, "MESH_DATABASE": postgres_url}
        folders = tmp_path / "one", tmp_path / "two"
        async with mesh_up(folders[0], **environment) as one, mesh_up(folders[1], **environment) as two:
            task_id = await job.submit(one)
            await provider.until_held(("coder", 4))
            [owner] = [worker for worker in (one, two) if job.tree(task_id, worker.data).exists()]
            other = two if owner is one else one
            provider.holds = {}
            await owner.kill()
            question = await job.question(other)
            await other.client.answer(question, {"approve": True})
            outcome = await other.outcome(task_id)
            calls = await calls_of(other, task_id)
    assert outcome["result"] == {"text": "Done."}, outcome["error"]
    assert calls == Counter(made.name for made in JOB)
    files = job.committed(task_id, other.data)
    assert (files["calc.py"], files["log.txt"]) == ("def add(a, b):\n    return a + b\n", "line\n")
    assert not (job.tree(task_id, owner.data) / "repo.git" / "refs" / "heads" / "mesh").exists()
