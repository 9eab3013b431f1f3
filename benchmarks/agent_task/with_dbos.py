"""DBOS on SQLite or PostgreSQL: a library, run by this process."""

from __future__ import annotations

import asyncio
import os
from typing import Any

from dbos import DBOS  # pyrefly: ignore[missing-import]

from benchmarks.agent_task import drive, job


async def main() -> None:
    async with drive.running() as running:
        url = os.environ.get("DATABASE", f"sqlite:///{running.folder}/dbos.sqlite")
        DBOS(config={"name": "peer", "system_database_url": url, "log_level": "ERROR"})

        @DBOS.step()
        async def ask(messages: list[Any]) -> dict[str, Any]:
            return await job.ask(messages)

        @DBOS.step()
        async def lookup(order: str) -> str:
            return await job.lookup(order)

        @DBOS.workflow()
        async def agent(messages: list[Any]) -> str:
            while True:
                reply = await ask(messages)
                messages = [*messages, reply]
                if not reply.get("tool_calls"):
                    return reply["content"]
                for call in reply["tool_calls"]:
                    messages = [*messages, job.result(call, await lookup(**job.arguments(call)))]

        DBOS.launch()

        async def submit() -> None:
            handle = await DBOS.start_workflow_async(agent, job.MESSAGES)
            assert await handle.get_result()

        await drive.measure(submit, running)
        DBOS.destroy()


if __name__ == "__main__":
    asyncio.run(main())
