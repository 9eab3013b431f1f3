"""Agents behind the MCP server of a mesh: those that MCP's conformance suite names, and a few more."""

from __future__ import annotations

from pydantic import BaseModel

from meshwright import Agent, Capability, File, Run, ToolFailed

REGION = {
    "type": "object",
    "properties": {"region": {"type": "string", "x-mcp-header": "Region"}},
    "required": ["region"],
}


class Confirmation(BaseModel):
    """Yes or no."""

    confirm: bool


class UserName(BaseModel):
    """A name."""

    name: str = ""
    confirm: bool = True


class Greet(Agent):
    """Answers while its caller waits."""

    agent_id = "greet"
    capabilities = (Capability("greeting", asynchronous=False),)
    remembers = False

    async def run(self, run: Run) -> str:
        return f"Hello, {run.task.payload.get('name')}!"


class SlowCompute(Agent):
    """Sleeps."""

    agent_id = "slow_compute"
    capabilities = (Capability("computing"),)
    remembers = False

    async def run(self, run: Run) -> str:
        if seconds := float(run.task.payload.get("seconds", 0)):
            await run.sleep(seconds=seconds)
        return f"slept {seconds} s: {run.task.payload.get('label', '')}"


class FailingJob(Agent):
    """Says that it cannot."""

    agent_id = "failing_job"
    capabilities = (Capability("failing"),)
    remembers = False

    async def run(self, run: Run) -> str:
        raise ToolFailed("the job failed")


class ProtocolErrorJob(Agent):
    """Breaks."""

    agent_id = "protocol_error_job"
    capabilities = (Capability("breaking"),)
    remembers = False

    async def run(self, run: Run) -> str:
        raise RuntimeError("panic")


class ConfirmDelete(Agent):
    """Asks once."""

    agent_id = "confirm_delete"
    capabilities = (Capability("deleting"),)
    remembers = False

    async def run(self, run: Run) -> str:
        answer = await run.ask_person(f"Delete {run.task.payload.get('filename')}?", shape=Confirmation)
        return "deleted" if answer.confirm else "kept"


class MultiInput(Agent):
    """Asks two things at once."""

    agent_id = "multi_input"
    capabilities = (Capability("asking"),)
    remembers = False

    async def run(self, run: Run) -> str:
        first, second = await run.gather(
            run.ask_person("First?", shape=UserName), run.ask_person("Second?", shape=UserName)
        )
        return f"{first.name} {second.name}"


class AskThenWork(Agent):
    """Asks before it begins."""

    agent_id = "test_tool_with_task"
    capabilities = (Capability("asking-first", asynchronous=False),)
    remembers = False

    async def run(self, run: Run) -> str:
        answer = await run.ask_person("Who are you?", shape=UserName)
        return f"Hello, {answer.name}!"


class WithHeader(Agent):
    """Has an argument that clients repeat in a header."""

    agent_id = "with_header"
    capabilities = (Capability("routing", asynchronous=False, input_schema=REGION),)
    remembers = False

    async def run(self, run: Run) -> str:
        return f"in {run.task.payload['region']}"


class Drawer(Agent):
    """Answers with a file."""

    agent_id = "drawer"
    capabilities = (Capability("drawing"),)
    remembers = False

    async def run(self, run: Run) -> str:
        await run.attach(File(name="chart.txt", data=b"a chart"))
        return "Here it is."


MCP_AGENTS = (
    *(Greet, SlowCompute, FailingJob, ProtocolErrorJob, ConfirmDelete, MultiInput, AskThenWork),
    *(WithHeader, Drawer),
)
