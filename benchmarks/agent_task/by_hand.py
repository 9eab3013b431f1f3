"""The floor: one process with one SQLite writer, the commits and rows of the mesh, and nothing else."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from typing import Any

import aiohttp
import uvloop
from pydantic_core import to_json

from benchmarks.agent_task import drive, job
from benchmarks.floor import Floor, Writer
from benchmarks.instant import InstantModel

REQUEST = to_json({"agent_id": "clerk", "payload": {"text": job.QUESTION}})


class AgentFloor(Floor):
    """Commits each call of the model and of the tool, as a step with its event, before it goes on."""

    session: aiohttp.ClientSession

    async def _ask(self, task_id: str) -> str:
        messages: list[dict[str, Any]] = list(job.MESSAGES)
        while True:
            url, body = os.environ["PROVIDER"], {"model": "m", "messages": messages, "tools": job.TOOLS}
            async with self.session.post(f"{url}/v1/chat/completions", json=body) as response:
                message = (await response.json())["choices"][0]["message"]
            await self._step(task_id, "model.called", {"messages": messages, "message": message})
            messages.append(message)
            if not message.get("tool_calls"):
                return message["content"]
            for call in message["tool_calls"]:
                messages.append(job.result(call, await job.lookup(**job.arguments(call))))
                await self._step(task_id, "tool.called", messages[-1])

    async def _step(self, task_id: str, kind: str, document: Any) -> None:
        self._seq += 1
        key, place = f"{task_id}/{self._seq}", ("default", task_id, "clerk", task_id)
        event = (self._seq, key, time.time(), kind, "task-progress", *place, to_json(document))
        await self._writer.commit([("steps", (task_id, self._seq, to_json(document))), ("events", event)])


async def main() -> None:
    async with drive.running() as running, aiohttp.ClientSession() as session:
        writer = Writer(running.folder / "floor.db")
        floor = AgentFloor(writer, json.loads(sys.argv[2]), commits=5, model=InstantModel())
        floor.session = session

        async def submit() -> None:
            assert await floor.finish(await floor.accept(REQUEST))

        await drive.measure(submit, running)


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
