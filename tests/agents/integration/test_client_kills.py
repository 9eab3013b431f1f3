"""An agent that works by an SDK's client, killed in each of its calls: no finished call is made again."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable
from decimal import Decimal
from functools import partial
from pathlib import Path

from aiohttp import web

from tests.support.fake_provider import FakeProvider, text_of
from tests.support.killed_mesh import KilledMesh, killed_mesh, until

__all__ = ["killed_mesh"]

ACTORS = '''\
import asyncio, os
from pathlib import Path

from meshwright import Agent, Capability, tool

EFFECTS = Path(os.environ["MESH_TEST_EFFECTS"])


class Buyer(Agent):
    """Buys by the client of an SDK, and two of its questions side by side."""

    agent_id = "buyer"
    capabilities = (Capability("buying"),)
    prompt_text = "You buy."
    remembers = False

    @tool
    async def charge(self, order: str) -> str:
        """Charge a card."""
        with EFFECTS.open("a") as file:
            file.write(f"charged {order}\\n")
        return f"paid for {order}"

    @tool(needs_approval=True)
    async def ship(self, order: str) -> str:
        """Ship an order."""
        with EFFECTS.open("a") as file:
            file.write(f"shipped {order}\\n")
        return f"shipped {order}"

    async def run(self, run):
        client, (charge, ship) = run.openai(), run.functions("charge", "ship")

        async def ask(text):
            messages = [{"role": "user", "content": text}]
            answer = await client.chat.completions.create(model="default", messages=messages)
            return answer.choices[0].message.content

        async def ask_in_pieces(text):
            messages = [{"role": "user", "content": text}]
            stream = await client.chat.completions.create(model="default", messages=messages, stream=True)
            return "".join([part.choices[0].delta.content or "" async for part in stream if part.choices])

        which = await ask("which")
        answers = await asyncio.gather(ask_in_pieces("weather"), ask("price"))
        done = [await charge(order=which), await ship(order=which)]
        return await ask_in_pieces(f"sum up: {', '.join([*answers, *done])}")
'''
PRICE = '{"input": "1", "output": "1"}'
HELD = ["which", "price", "approval", "sum up"]


class AnsweringProvider(FakeProvider):
    """Answers each question in its own words, but for one that it holds; counts those that it got."""

    held = ""

    async def complete(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        text = text_of(body["messages"][-1]["content"])
        name = text.partition(":")[0]
        self.received[name] += 1
        if name == self.held:
            self.reached.set()
            await asyncio.Event().wait()
        async with self.one_by_one:
            self.replies = deque([{"content": f"<{name}>"}])
            return await super().complete(request)

    def hold(self, name: str) -> None:
        self.held = name
        self.reached.clear()

    def begin(self) -> None:
        self.received: Counter[str] = Counter()
        self.reached, self.one_by_one = asyncio.Event(), asyncio.Lock()


def environment_of(provider: AnsweringProvider, folder: Path) -> dict[str, str]:
    """The environment of a mesh of the buyer, whose effects are in a file of the folder."""
    (folder / "actors").mkdir()
    (folder / "actors" / "buyers.py").write_text(ACTORS)
    return {
        "LITELLM_BASE_URL": provider.url,
        "LITELLM_API_KEY": "sk-fake",
        "MESH_MODELS__ADAPTER": "http",
        "MESH_AGENTS__DIR": str(folder / "actors"),
        "MESH_TEST_EFFECTS": str(folder / "effects.txt"),
    }


async def outcomes_of_calls(mesh: KilledMesh) -> Counter[str]:
    page = await mesh.running.get("/events", event_type="model.called", limit=100)
    return Counter(event["payload"]["outcome"] for event in page.body["items"])


async def answered(mesh: KilledMesh) -> int:
    return (await outcomes_of_calls(mesh))["ok"]


async def test_no_finished_call_is_made_again_wherever_the_mesh_is_killed(
    killed_mesh: Callable[[dict[str, str]], KilledMesh], tmp_path: Path
) -> None:
    effects = tmp_path / "effects.txt"
    async with AnsweringProvider() as provider:
        provider.begin()
        provider.hold(HELD[0])
        async with killed_mesh(environment_of(provider, tmp_path)) as mesh:
            task_id = (await mesh.running.client.submit("buyer", "Buy it.")).task_id
            for place, following in zip(HELD, [*HELD[1:], ""], strict=True):
                if place == "approval":
                    await mesh.questions()
                else:
                    await provider.reached.wait()
                if place == "price":  # the other question has its answer
                    await until(partial(answered, mesh), lambda answers: answers == 2)
                provider.hold(following)
                await mesh.kill()
                if place == "approval":
                    await mesh.approve()
            outcome = await mesh.running.outcome(task_id)
            outcomes = await outcomes_of_calls(mesh)
    assert outcome["result"] == {"text": "<sum up>"}
    assert effects.read_text() == "charged <which>\nshipped <which>\n"
    assert provider.received == {"which": 2, "weather": 1, "price": 2, "sum up": 2}
    assert outcomes == {"ok": 4, "cut": 3}, "the ledger has each call that the provider got"


async def test_calls_of_a_task_that_ends_its_process_three_times_are_in_the_ledger(
    killed_mesh: Callable[[dict[str, str]], KilledMesh], tmp_path: Path
) -> None:
    async with AnsweringProvider() as provider:
        provider.begin()
        environment = {**environment_of(provider, tmp_path), "MESH_LEDGER__DEFAULT_PRICE": PRICE}
        async with killed_mesh(environment) as mesh:
            bought = (await mesh.running.client.submit("buyer", "Buy it.")).task_id
            await mesh.questions()
            await mesh.approve()
            await mesh.running.outcome(bought)
            provider.hold("which")
            task_id = (await mesh.running.client.submit("buyer", "Buy another.")).task_id
            for _ in range(3):
                await provider.reached.wait()
                provider.hold("which")
                await mesh.kill()
            outcome = await mesh.running.outcome(task_id)
            page = await mesh.running.get("/events", event_type="model.called", task_id=task_id, limit=100)
    assert outcome["error"]["type"] == "BrokeOff"
    calls = [event["payload"] for event in page.body["items"]]
    assert [(call["outcome"], call["cost_source"]) for call in calls] == [("cut", "estimated")] * 3
    assert Decimal(outcome["cost_usd"]) == sum(Decimal(call["cost_usd"]) for call in calls) > 0


IMPATIENT = '''\
import asyncio, os
from pathlib import Path

from meshwright import Agent, Capability

GIVES_UP = Path(os.environ["MESH_TEST_EFFECTS"])


class Impatient(Agent):
    """Gives a call up once a file is there."""

    agent_id = "impatient"
    capabilities = (Capability("haste"),)
    prompt_text = "You haste."
    remembers = False

    async def run(self, run):
        client = run.openai()

        async def ask(text):
            messages = [{"role": "user", "content": text}]
            answer = await client.chat.completions.create(model="default", messages=messages)
            return answer.choices[0].message.content

        await ask("first")
        slow = asyncio.ensure_future(ask("slow"))
        await asyncio.sleep(0.1)
        while not GIVES_UP.exists():
            await asyncio.sleep(0.01)
        slow.cancel()
        await asyncio.gather(slow, return_exceptions=True)
        return await ask("last")
'''


async def test_a_call_that_is_read_on_as_its_process_is_killed_is_in_the_ledger(
    killed_mesh: Callable[[dict[str, str]], KilledMesh], tmp_path: Path
) -> None:
    async with AnsweringProvider() as provider:
        provider.begin()
        provider.hold("slow")
        environment = environment_of(provider, tmp_path)
        (tmp_path / "actors" / "buyers.py").write_text(IMPATIENT)
        async with killed_mesh(environment | {"MESH_MODELS__READ_ON_SECONDS": "300"}) as mesh:
            task_id = (await mesh.running.client.submit("impatient", "Haste.")).task_id
            await provider.reached.wait()
            provider.hold("last")
            (tmp_path / "effects.txt").touch()
            await provider.reached.wait()
            await mesh.kill()
            provider.hold("")
            outcome = await mesh.running.outcome(task_id)
            assert outcome["status"] == "succeeded", outcome["error"]
            assert provider.received == {"first": 1, "slow": 1, "last": 2}
            assert await outcomes_of_calls(mesh) == {"ok": 2, "cut": 2}
