"""Meshwright: `mesh up` on SQLite or PostgreSQL, asked by its client."""

from __future__ import annotations

import asyncio
import os
import sys

import uvloop

from benchmarks.agent_task import drive, job
from meshwright import Client

AGENT = '''
from meshwright import Agent, Capability, tool


class Clerk(Agent):
    """Answers questions about orders."""

    agent_id = "clerk"
    capabilities = (Capability("orders"),)
    prompt_text = "You answer questions about orders."
    remembers = False

    @tool(idempotent=True)
    async def lookup(self, order: str) -> str:
        """Look up an order."""
        return f"order {order}: shipped"
'''


async def main() -> None:
    async with drive.running() as mesh:
        (mesh.folder / "actors").mkdir()
        (mesh.folder / "actors" / "clerk.py").write_text(AGENT)
        port = drive.free_port()
        database = ["--database", os.environ["DATABASE"]] if "DATABASE" in os.environ else []
        mesh.start(
            *(sys.executable, "-m", "meshwright", "up", "--port", str(port), *database),
            *("--data", mesh.folder / "data"),
            cwd=mesh.folder,
            LITELLM_BASE_URL=os.environ["PROVIDER"],
            LITELLM_API_KEY="sk-x",
        )
        await mesh.ready(port)
        async with Client(f"http://127.0.0.1:{port}") as client:

            async def submit() -> None:
                outcome = await client.ask("clerk", job.QUESTION)
                assert outcome.status == "succeeded", outcome

            await submit()
            await drive.measure(submit, mesh)


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
