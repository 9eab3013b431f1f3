"""A model that is a script: it gives the recorded trajectory of each job, and says what it is."""

from __future__ import annotations

import asyncio
import json
from collections import Counter, deque
from collections.abc import Sequence
from typing import Any

from aiohttp import web

from benchmarks.coding.job import CodingJob
from tests.support.fake_provider import FakeProvider, text_of, tool_call

DOLLARS_A_MILLION = 3, 15
"""The price of tokens read and written, as a large model has it."""
CHARS_A_TOKEN = 4
CONFIG = """
model_list:
  - model_name: default
    litellm_params:
      {{model: openai/recorded, api_base: "{url}/v1", api_key: sk-none, tags: [default, coding]}}
    model_info:
      max_input_tokens: 200000
      input_cost_per_token: {read}.0e-6
      output_cost_per_token: {written}.0e-6
"""


class RecordedModel(FakeProvider):
    """Answers a request by the results of tools that it has: a repeated request gets the same reply.

    Usage is estimated by the length of what is read and written. A request of a job with as many results as
    `held_from` says for it is not answered, and the job noted in `held`; `given` counts the answers, by job
    and results.
    """

    def follow(self, jobs: Sequence[CodingJob]) -> None:
        self.jobs = {job.name: job for job in jobs}
        self.held_from: dict[str, int] = {}
        self.held: set[str] = set()
        self.given: Counter[tuple[str, int]] = Counter()
        self._turn = asyncio.Lock()

    @property
    def config(self) -> str:
        """The file of deployments that names it."""
        read, written = DOLLARS_A_MILLION
        return CONFIG.format(url=self.url, read=read, written=written)

    async def complete(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        job, results = self._job_of(body), sum(message["role"] == "tool" for message in body["messages"])
        if results >= self.held_from.get(job.name, results + 1):
            self.held.add(job.name)
            await asyncio.Event().wait()
        reply = _reply(job, results)
        async with self._turn:
            self.usage = usage_of(body, reply)
            self.replies = deque([reply])
            self.given[job.name, results] += 1
            return await super().complete(request)

    def _job_of(self, body: dict[str, Any]) -> CodingJob:
        said = [text_of(message["content"]) for message in body["messages"] if message["role"] == "user"]
        return next(job for job in self.jobs.values() if any(job.task in text for text in said))


def _reply(job: CodingJob, results: int) -> dict[str, Any]:
    if results >= len(job.calls):
        return {"content": job.answer}
    call = job.calls[results]
    return tool_call(call.tool, json.dumps(call.arguments), f"call_{results}")


def usage_of(body: dict[str, Any], reply: dict[str, Any]) -> dict[str, int]:
    """The usage that an answer states: an estimate by the length of its request and of itself."""
    read, written = (len(json.dumps(part)) // CHARS_A_TOKEN for part in (body, reply))
    return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}
