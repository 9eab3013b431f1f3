"""dapr-agents: run by the interpreter of its own environment; the sidecar is found by Dapr's variables.

A DurableAgent with its own policy of retries, and the limit of iterations raised to what the work takes.
Where it is started again, each workflow that was begun goes on under its id.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import dapr.ext.workflow as workflow
from dapr_agents import AgentRunner, DurableAgent, OpenAIChatClient, tool  # pyrefly: ignore[missing-import]
from dapr_agents.agents.configs import AgentExecutionConfig, AgentStateConfig  # pyrefly: ignore[missing-import]
from dapr_agents.storage.daprstores.stateservice import StateStoreService  # pyrefly: ignore[missing-import]

from tests.support.simulator.job import Job

POOL = 64
SECONDS = 3600


async def run(job: Job) -> None:
    """Work on the open items, all at once."""
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(POOL))
    world = job.world()
    agent = DurableAgent(
        name="simulated",
        role="assistant",
        llm=OpenAIChatClient(model="simulated", api_key="sk-simulated", base_url=f"{job.url}/v1"),
        tools=[tool(function) for function in _tools(world)],
        state=AgentStateConfig(store=StateStoreService(store_name="state")),
        execution=AgentExecutionConfig(max_iterations=job.max_steps),
        runtime=workflow.WorkflowRuntime(maximum_thread_pool_workers=POOL),
    )
    runner = AgentRunner()
    agent.start()
    begun = job.path / "begun"
    begun.mkdir(exist_ok=True)

    async def do(item: str) -> None:
        mark = begun / item
        try:
            if mark.exists():
                wait = runner.wait_for_workflow_completion
                state = await asyncio.to_thread(wait, item, timeout_in_seconds=SECONDS)
                output = getattr(state, "serialized_output", None)
            else:
                mark.touch()
                payload = {"task": job.request(item)}
                output = await runner.run(
                    agent, payload, instance_id=item, timeout_in_seconds=SECONDS, log=False
                )
            text = _text(output)
            failed = not text or text.startswith("Error:")
            job.write(item, None if failed else text, str(text)[:300] if failed else None)
        except Exception as error:  # noqa: BLE001 whatever it is, this item has failed
            job.write(item, None, f"{type(error).__name__}: {error}"[:300])

    await asyncio.gather(*map(do, job.open_items()))


def _tools(world: Any) -> list[Any]:
    def edit_file(project: str, path: str, text: str) -> str:
        """Replace a file of a project."""
        return world.edit_file(project, path, text)

    def run_tests(project: str) -> str:
        """Run the tests of a project."""
        return world.run_tests(project)

    def check_health(service: str) -> str:
        """Look at a service."""
        return world.check_health(service)

    def search(query: str) -> str:
        """Search for a fact."""
        return world.search(query)

    return [edit_file, run_tests, check_health, search]


def _text(output: str | None) -> str | None:
    said = json.loads(output) if output else None
    return said.get("content") if isinstance(said, dict) else said


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    asyncio.run(run(Job.decode(sys.argv[1])))
    os._exit(0)  # its threads do not end by themselves
