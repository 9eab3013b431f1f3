"""Agents that are configured while they work: one that asks its model again and again."""

import asyncio
import inspect
from pathlib import Path
from typing import Any

from meshwright import Agent, Capability, Run
from tests.support.fake_provider import Call, FakeProvider
from tests.support.http_mesh import Api, http_mesh

KEY = "sk-key-of-a-provider-0123456789"
ADMIN = "mesh-admin-" + "t" * 43
AS_ADMIN = {"Authorization": f"Bearer {ADMIN}"}


class Asker(Agent):
    """Asks its model for as long as that is the fake provider's own answer."""

    agent_id = "asker"
    capabilities = (Capability("asking"),)
    remembers = False
    prompt_text = "You are asked again and again."

    async def run(self, run: Run) -> str:
        answer = await run.ask("Again?")
        while answer.startswith("fake-openai"):
            answer = await run.ask("Again?")
        return answer


SOURCE = f"from meshwright import Agent, Capability, Run\n\n\n{inspect.getsource(Asker)}"
"""The same as a file of a project."""


def config(endpoint: str, **fields: Any) -> dict[str, Any]:
    """A configuration of the agent."""
    return {
        "agent_id": "asker",
        "llm_provider": "custom_openai",
        "llm_model": "small",
        "llm_endpoint": endpoint,
        "llm_api_key": KEY,
        **fields,
    }


async def called(fake: FakeProvider, of: str, times: int = 1) -> list[Call]:
    """Wait until a deployment of a provider has been called so often."""
    while len(fake.calls_of(of)) < times:
        fake.arrived.clear()
        await asyncio.wait_for(fake.arrived.wait(), 60)
    return fake.calls_of(of)


def mesh_of(project: Path, **settings: Any) -> Any:
    """A mesh whose model is what the environment offers: none, so the built-in one."""
    return http_mesh(project, Asker, **{"model": "auto", "admin_token": ADMIN, **settings})


async def change(api: Api, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
    """Call a route of configurations as the administrator."""
    return await api.call(method, f"/api/agents{path}", json=body, headers={**AS_ADMIN, **headers})


async def next_event(api: Api, event_type: str) -> Any:
    """Wait for the first event of a type."""
    async for event in api.client.stream(after_seq=0):
        if event.event_type == event_type:
            return event
