"""pydantic-ai: run by the interpreter of its own environment.

As its documentation has it, with a transport that retries five times, waits as long as a provider asks for,
and the limit of requests a run raised to what the work takes.
"""

from __future__ import annotations

import asyncio
import logging
import sys

from httpx2 import AsyncClient, ConnectError, HTTPStatusError  # pyrefly: ignore[missing-import]
from pydantic_ai import Agent  # pyrefly: ignore[missing-import]
from pydantic_ai.models.openai import OpenAIChatModel  # pyrefly: ignore[missing-import]
from pydantic_ai.providers.openai import OpenAIProvider  # pyrefly: ignore[missing-import]
from pydantic_ai.retries import AsyncHTTPX2TenacityTransport, RetryConfig, wait_retry_after  # pyrefly: ignore[missing-import]
from pydantic_ai.usage import UsageLimits  # pyrefly: ignore[missing-import]
from tenacity import retry_if_exception_type, stop_after_attempt, wait_exponential  # pyrefly: ignore[missing-import]

from tests.support.simulator.job import Job

RETRYABLE = (429, 502, 503, 504)
TRIES = 5


def retrying_client() -> AsyncClient:
    """The client of the chapter on retries."""

    def validate(response) -> None:
        if response.status_code in RETRYABLE:
            response.raise_for_status()

    config = RetryConfig(
        retry=retry_if_exception_type((HTTPStatusError, ConnectError)),
        wait=wait_retry_after(fallback_strategy=wait_exponential(multiplier=1, max=60), max_wait=300),
        stop=stop_after_attempt(TRIES),
        reraise=True,
    )
    return AsyncClient(transport=AsyncHTTPX2TenacityTransport(config=config, validate_response=validate))


async def run(job: Job) -> None:
    """Work on the open items, all at once."""
    world = job.world()
    provider = OpenAIProvider(base_url=f"{job.url}/v1", api_key="sk-simulated", http_client=retrying_client())
    agent = Agent(
        OpenAIChatModel("simulated", provider=provider),
        instructions="You are simulated.",
        model_settings={"max_tokens": 1024},
        tools=[world.edit_file, world.run_tests, world.check_health, world.search],
    )

    async def do(item: str) -> None:
        try:
            limits = UsageLimits(request_limit=job.max_steps)
            done = await agent.run(job.request(item), usage_limits=limits)
            job.write(item, done.output)
        except Exception as error:  # noqa: BLE001 whatever it is, this item has failed
            job.write(item, None, f"{type(error).__name__}: {error}"[:300])

    await asyncio.gather(*map(do, job.open_items()))


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    asyncio.run(run(Job.decode(sys.argv[1])))
