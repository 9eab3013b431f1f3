"""dapr-agents with a model that answers at once: run by the interpreter of its own environment.

    python -m benchmarks.dapr_agents_side RESULT.json SECONDS

The sidecar is found by Dapr's own variables. As its documentation has it, but for pools of 64 threads: by
default there would be as few as this machine's cores allow.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import dapr.ext.workflow as workflow
from dapr_agents import AgentRunner, DurableAgent  # pyrefly: ignore[missing-import]
from dapr_agents.agents.configs import AgentStateConfig  # pyrefly: ignore[missing-import]
from dapr_agents.llm.chat import ChatClientBase  # pyrefly: ignore[missing-import]
from dapr_agents.storage.daprstores.stateservice import StateStoreService  # pyrefly: ignore[missing-import]
from dapr_agents.types.message import AssistantMessage, LLMChatCandidate, LLMChatResponse  # pyrefly: ignore[missing-import]

from benchmarks.load import drive

LEVELS = (1, 32)
POOL = 64
WARM_UP_SECONDS = 4.0  # a task takes 2 s and more when 32 are in flight
TEXT = "What changed between the last two releases, and does anything that we rely on break?"
ANSWER = "Three things changed, none of which we rely on."


class InstantClient(ChatClientBase):
    """Answers at once."""

    prompty: Any = None
    prompt_template: Any = None
    provider = model = api = "instant"

    @classmethod
    def from_prompty(cls, prompty_source: Any, timeout: Any = 0) -> InstantClient:
        return cls()

    def generate(self, messages: Any = None, *, response_format: Any = None, **known: Any) -> Any:
        if response_format is not None:
            return response_format(summary=ANSWER)
        message = AssistantMessage(content=ANSWER)
        return LLMChatResponse(results=[LLMChatCandidate(message=message, finish_reason="stop")])


async def measure(seconds: float) -> dict[str, float]:
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(POOL))
    agent = DurableAgent(
        name="bench-agent",
        role="assistant",
        llm=InstantClient(),
        state=AgentStateConfig(store=StateStoreService(store_name="state")),
        runtime=workflow.WorkflowRuntime(maximum_thread_pool_workers=POOL),
    )
    runner = AgentRunner()
    agent.start()

    async def task() -> None:
        answer = await runner.run(agent, payload={"task": TEXT}, log=False)
        assert answer and ANSWER in answer, answer

    figures: dict[str, float] = {}
    warm_up = min(seconds, WARM_UP_SECONDS)
    for level in LEVELS:
        seen = await drive(task, in_flight=level, seconds=seconds, warm_up_seconds=warm_up)
        figures |= {f"{name}_{level}": value for name, value in seen.summary().items()}
    return figures


def main(result: str, seconds: str) -> None:
    logging.disable(logging.WARNING)
    figures = asyncio.run(measure(float(seconds)))
    Path(result).write_text(json.dumps(figures))
    os._exit(0)  # its threads do not end by themselves


if __name__ == "__main__":
    main(*sys.argv[1:])
