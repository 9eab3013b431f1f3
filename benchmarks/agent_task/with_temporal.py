"""Temporal: its server on SQLite, a worker in Python, and a client that waits for the workflow."""

from __future__ import annotations

import asyncio
import itertools
import os
import sys
from datetime import timedelta
from typing import Any

from temporalio import activity, workflow  # pyrefly: ignore[missing-import]
from temporalio.client import Client  # pyrefly: ignore[missing-import]
from temporalio.worker import Worker  # pyrefly: ignore[missing-import]

with workflow.unsafe.imports_passed_through():
    from benchmarks.agent_task import drive, job

QUEUE = "agents"
LIMIT = timedelta(seconds=60)


@activity.defn
async def ask(messages: list[Any]) -> dict[str, Any]:
    return await job.ask(messages)


@activity.defn
async def lookup(order: str) -> str:
    return await job.lookup(order)


@workflow.defn
class Agent:
    """The agent."""

    @workflow.run
    async def run(self, messages: list[Any]) -> str:
        while True:
            reply = await workflow.execute_activity(ask, messages, start_to_close_timeout=LIMIT)
            messages = [*messages, reply]
            if not reply.get("tool_calls"):
                return reply["content"]
            for call in reply["tool_calls"]:
                order = job.arguments(call)["order"]
                content = await workflow.execute_activity(lookup, order, start_to_close_timeout=LIMIT)
                messages = [*messages, job.result(call, content)]


async def work(address: str) -> None:
    client = await Client.connect(address)
    worker = Worker(
        client,
        task_queue=QUEUE,
        workflows=[Agent],
        activities=[ask, lookup],
        max_concurrent_workflow_tasks=200,
        max_concurrent_activities=200,
    )
    await worker.run()


async def main() -> None:
    async with drive.running() as running:
        port = drive.free_port()
        address = f"127.0.0.1:{port}"
        running.start(os.environ["TEMPORAL"], "--port", str(port), "--db", running.folder / "temporal.db")
        await running.ready(port)
        await asyncio.sleep(3)  # its parts find one another
        running.start(sys.executable, "-m", f"{__package__}.with_temporal", address)
        client = await Client.connect(address)
        numbers = itertools.count()

        async def submit() -> None:
            name = f"task-{next(numbers)}"
            assert await client.execute_workflow(Agent.run, job.MESSAGES, id=name, task_queue=QUEUE)

        await submit()
        await drive.measure(submit, running)


if __name__ == "__main__":
    asyncio.run(main() if sys.argv[1].startswith("{") else work(sys.argv[1]))
