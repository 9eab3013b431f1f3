"""Restate: its server, a service in Python behind hypercorn, and requests that wait for the result."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

import aiohttp
import restate  # pyrefly: ignore[missing-import]

from benchmarks.agent_task import drive, job

agent = restate.Service("agent")


@agent.handler()
async def run(context: restate.Context, text: str) -> str:
    messages: list[Any] = job.MESSAGES
    while True:
        reply = await context.run_typed("ask", job.ask, messages=messages)
        messages = [*messages, reply]
        if not reply.get("tool_calls"):
            return reply["content"]
        for call in reply["tool_calls"]:
            content = await context.run_typed("lookup", job.lookup, **job.arguments(call))
            messages = [*messages, job.result(call, content)]


app = restate.app([agent])


async def main() -> None:
    async with drive.running() as running:
        ingress, admin, node, service = (drive.free_port() for _ in range(4))
        running.start(
            *(os.environ["RESTATE"], "--node-name", "n1"),
            RESTATE_BASE_DIR=str(running.folder / "data"),
            RESTATE_DISABLE_TELEMETRY="true",
            DO_NOT_TRACK="1",
            RESTATE_BIND_IP="127.0.0.1",
            RESTATE_INGRESS__BIND_PORT=str(ingress),
            RESTATE_ADMIN__BIND_PORT=str(admin),
            RESTATE_BIND_PORT=str(node),
        )
        hypercorn = Path(sys.executable).parent / "hypercorn"
        running.start(hypercorn, "-b", f"127.0.0.1:{service}", f"{__package__}.with_restate:app")
        for port in (ingress, admin, service):
            await running.ready(port)
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as client:
            deployment = {"uri": f"http://127.0.0.1:{service}"}
            async with client.post(f"http://127.0.0.1:{admin}/deployments", json=deployment) as response:
                assert response.ok, await response.text()

            async def submit() -> None:
                url = f"http://127.0.0.1:{ingress}/agent/run"
                async with client.post(url, json=job.QUESTION) as response:
                    assert response.ok, await response.text()

            await submit()
            await drive.measure(submit, running)


if __name__ == "__main__":
    asyncio.run(main())
