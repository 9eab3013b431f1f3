"""A proposal that was cut off behind its commit is found in the tree, and is not made again."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest

from meshwright import Agent, Capability, Run, TaskRequest
from meshwright.agents.trees.leases import Trees
from meshwright.mesh.orchestration.tasks import Tasks
from meshwright.tools import Tool, ToolContext, ToolWrapper
from meshwright.toolsets.code import CodeTools
from tests.support.interrupted_mesh import kept, told_of
from tests.support.repositories import git, repository

pytestmark = pytest.mark.needs("git", "bwrap")


class HeldTool(ToolWrapper):
    """A tool that a test holds once it has done its work."""

    holds: ClassVar[bool]
    done: ClassVar[asyncio.Event]
    calls: ClassVar[int] = 0

    async def call(self, arguments: str, context: ToolContext) -> Any:
        result = await super().call(arguments, context)
        HeldTool.calls += 1
        if self.holds:
            self.done.set()
            await asyncio.Event().wait()
        return result


class HeldTools(CodeTools):
    """The tools for code, with a proposal that is held."""

    async def tools(self) -> Sequence[Tool]:
        tools = await super().tools()
        return [HeldTool(tool) if tool.name == "propose" else tool for tool in tools]


class Coder(Agent):
    """Proposes a change."""

    agent_id = "coder"
    capabilities = (Capability("bug-fix"),)
    toolsets = (HeldTools,)
    remembers = False

    async def run(self, run: Run) -> str:
        await run.call("write", path="new.py", text="x = 1\n")
        return (await run.call("propose", title="Add x"))["revision"]


async def test_a_proposal_that_was_cut_off_is_found_in_the_tree(tmp_path: Path) -> None:
    source = repository(tmp_path / "calc")
    HeldTool.holds, HeldTool.done, HeldTool.calls = True, asyncio.Event(), 0
    settings: dict[str, Any] = {"trees": {"calc": {"repository": str(source)}}}
    async with kept(tmp_path / "mesh", Coder, **settings) as mesh:
        receipt = await mesh.get(Tasks).submit(TaskRequest(agent_id="coder", payload={"text": "Add x."}))
        question = await told_of(mesh, "task.waiting")
        await mesh.get(Tasks).answer(receipt.task_id, question.payload["key"], {"approve": True})
        await HeldTool.done.wait()
    HeldTool.holds = False
    async with kept(tmp_path / "mesh", Coder, **settings) as mesh:
        outcome = await mesh.get(Tasks).outcome(receipt.task_id)
        checked = await told_of(mesh, "step.checked")
        tree = await mesh.get(Trees).lease("default", receipt.task_id, "")
        assert outcome.text == await tree.head()
        commits = git(tree.repository, "log", "--format=%s", f"{tree.lease.base}..{tree.branch}")
    assert (checked.payload["name"], checked.payload["outcome"]) == ("propose", "happened")
    assert checked.payload["evidence"] == f"The branch {tree.branch} has commit {outcome.text}."
    assert commits.split() == ["Add", "x"]
    assert HeldTool.calls == 1
