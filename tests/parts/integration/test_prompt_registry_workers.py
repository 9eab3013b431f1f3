"""A label that is moved at a front decides the prompts of workers that have no database of their own."""

import asyncio
import inspect
from pathlib import Path

import aiohttp
import pytest

from meshwright import Agent, Capability, Client, Run
from tests.support.configured_agents import ADMIN, AS_ADMIN
from tests.support.running_stack import stack_up

SECONDS = 30.0  # far less than the time after which a worker reads live prompts again


class Greeter(Agent):
    """Asks its model once."""

    agent_id = "greeter"
    capabilities = (Capability("greeting"),)
    remembers = False
    prompt_text = "Greet as the file says."

    async def run(self, run: Run) -> str:
        return await run.ask("Hello")


SOURCE = f"from meshwright import Agent, Capability, Run\n\n\n{inspect.getsource(Greeter)}"


REFUSING = """
from meshwright.core.errors import StoreUnavailable
from meshwright.engine.stores.dapr.sidecar import Sidecar

invoke = Sidecar.invoke


async def refuse(self, ref, method, body):
    if ref.type in ("agent-configs", "prompt-registry"):
        raise StoreUnavailable(f"did not find address for actor {ref}")
    return await invoke(self, ref, method, body)


Sidecar.invoke = refuse
"""


@pytest.mark.needs("mosquitto", "redis-server")
async def test_workers_on_dapr_go_by_a_label_that_was_moved_and_need_no_call(tmp_path: Path) -> None:
    (tmp_path / "actors").mkdir()
    (tmp_path / "actors" / "greeter.py").write_text(f"{SOURCE}\n{REFUSING}")
    environment = {"MESH_AGENTS__DIR": str(tmp_path / "actors"), "MESH_ADMIN_TOKEN": ADMIN}
    async with (
        stack_up(tmp_path / "data", "--trust", "--per-agent", **environment) as stack,
        aiohttp.ClientSession(headers=AS_ADMIN) as http,
        Client(stack.url, ADMIN) as client,
    ):

        async def change(method: str, path: str, body: object) -> None:
            async with http.request(method, f"{stack.url}/v1/prompts{path}", json=body) as answer:
                assert answer.status in (200, 201), await answer.text()

        async def greeted_with(ending: str) -> None:
            async with asyncio.timeout(SECONDS):
                while True:
                    outcome = await client.ask("greeter", "Hello")
                    assert outcome.success and outcome.prompt, outcome
                    if outcome.prompt.endswith(ending):
                        return

        before = (await client.ask("greeter", "Hello")).prompt
        assert before and "registry" not in before
        await change("POST", "", {"name": "greeter", "template": "Be kind."})
        await change("PUT", "/greeter", {"template": "Be brief."})
        for version in (1, 2, 1):
            await change("PUT", "/greeter/labels/production", {"version": version})
            await greeted_with(f" registry:v{version}")
        await change("PUT", "/greeter", {"template": "Be witty."})
        async with http.post(f"{stack.url}/v1/prompts/greeter/test", json={"text": "Hello"}) as answer:
            tried = await answer.json()  # by a task that has the version, which has no label
        assert (tried["version"], tried["agent_id"], tried["success"]) == (3, "greeter", True), tried
        async with http.delete(f"{stack.url}/v1/prompts/greeter") as answer:
            assert answer.status == 204
        await greeted_with(before)
        assert await stack.stop() == 0
