"""A model that is a script for Codex and Claude Code: it has them run the commands of a job, one a call."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections import Counter, deque
from collections.abc import Sequence
from typing import Any

from aiohttp import web

from benchmarks.coding.commands import commands_of, steps_in
from benchmarks.coding.job import CodingJob
from benchmarks.coding.model import RecordedModel, usage_of
from tests.support.fake_provider import FakeProvider, text_of, tool_call

_WAIT_MS = 30_000
"""The longest that Codex waits for a command before it asks its model what to do meanwhile."""


class ProgramModel(RecordedModel):
    """Answers by the steps that the results in a request show, so that a session goes on from what it holds.

    A request without a tool for commands, such as that for a title, gets a text. `requests` counts those
    of a job that were answered, by their content, `side_requests` those without that tool, which a resumed
    session may make again; `tokens` are those of all answers.
    """

    def follow(self, jobs: Sequence[CodingJob]) -> None:
        super().follow(jobs)
        self.commands = {job.name: commands_of(job) for job in jobs}
        self.requests: Counter[str] = Counter()
        self.side_requests = 0
        self.tokens = 0
        self._released = {job.name: asyncio.Event() for job in jobs}

    def release(self, job: CodingJob) -> None:
        """Answer the requests of a job that are held, and those to come."""
        self.held_from.pop(job.name, None)
        self.held.discard(job.name)
        self._released[job.name].set()
        self._released[job.name] = asyncio.Event()

    @property
    def repeated(self) -> int:
        """How many answers were given to a request that had one."""
        return self.requests.total() - len(self.requests)

    async def complete(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        reply: dict[str, Any] = {"content": "A job of coding."}
        place = None
        if name := _tool_of(body):
            job = self._job_of(body)
            place = job.name, steps_in(_outputs(body), job)
            if place[1] >= self.held_from.get(job.name, place[1] + 1):
                self.held.add(job.name)
                await self._released[job.name].wait()
            reply = self._reply(job, place[1], name)
        async with self._turn:
            self.usage = usage_of(body, reply)
            self.replies = deque([reply])
            response = await FakeProvider.complete(self, request)
            self.tokens += self.usage["total_tokens"]
            if place is None:
                self.side_requests += 1
            else:
                self.requests[_digest(body)] += 1
                self.given[place] += 1
            return response

    def _reply(self, job: CodingJob, step: int, tool: str) -> dict[str, Any]:
        commands = self.commands[job.name]
        if step >= len(commands):
            return {"content": job.answer}
        text = commands[step].text
        arguments: dict[str, Any] = {"cmd": text, "yield_time_ms": _WAIT_MS}
        if tool == "Bash":
            arguments = {"command": text, "description": f"Step {step}"}
        number = self.requests.total()
        return tool_call(tool, json.dumps(arguments), f"call_{step}_{number}")


def _tool_of(body: dict[str, Any]) -> str:
    """The tool that runs commands, of those that a request offers."""
    names = [tool["function"]["name"] for tool in body.get("tools", ())]
    return next((name for name in names if name in ("exec_command", "Bash")), "")


def _outputs(body: dict[str, Any]) -> str:
    return "\n".join(text_of(message["content"]) for message in body["messages"] if message["role"] == "tool")


def _digest(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
