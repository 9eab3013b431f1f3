"""Calls that their callers give up: made once, and the ledger has what the provider bills for them."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from meshwright import Agent, Capability, Client, Run
from meshwright.mesh.app import build_mesh
from tests.support.settings import load_settings
from tests.support.simulator.play import write_project
from tests.support.simulator.scenario import Scenario, Weather
from tests.support.simulator.score import job_of
from tests.support.simulator.server import Simulator

pytest.importorskip("openai")
CALLS = 3
LATE = Weather("late", item="late", seconds=0.5)
WORDS = " ".join(f"secret-word-{number}" for number in range(100))
"""The persona's answer has them all."""


def impatient(simulator: Simulator, how: str) -> type[Agent]:
    """An agent that gives calls up once the provider has billed them, waits four times, then asks again."""

    class Impatient(Agent):
        """Has no patience."""

        agent_id = "impatient"
        capabilities = (Capability("haste"),)
        prompt = "simulated"
        remembers = False

        async def run(self, run: Run) -> str:
            client = run.openai()

            def say(item: str, number: int, **options: Any) -> Any:
                text = f"Do work item {item}, {number}: {WORDS if item == 'late' else 'soon'}"
                messages: Any = [{"role": "user", "content": text}]
                return client.chat.completions.create(model="default", messages=messages, **options)

            async def give_up(call: asyncio.Future[Any], number: int) -> None:
                await asyncio.sleep(0.05)  # a run that is resumed gives it up after that
                while sum(charge.item == "late" for charge in simulator.ledger.charges) < number:
                    await asyncio.sleep(0.01)
                call.cancel()
                await asyncio.gather(call, return_exceptions=True)

            for number in range(1, 4):
                await say("prompt", number)
            for number in range(1, CALLS + 1):
                if how == "stream":
                    stream = await say("late", number, stream=True)
                    await anext(aiter(stream))
                    await stream.close()
                    continue
                call = asyncio.ensure_future(say("late", number))
                if how == "hedge":
                    await say("hedge", number)
                await give_up(call, number)
            for _ in range(4):
                await run.sleep(seconds=0.01)
            return (await say("prompt", 4)).choices[0].message.content or ""

    return Impatient


async def costs_of(
    how: str, folder: Path, *, seconds: float, weather: tuple[Weather, ...] = (LATE,)
) -> tuple[Simulator, Decimal, int]:
    scenario = Scenario("late", "answers late what it has billed", persona="reader", weather=weather)
    async with Simulator(scenario) as simulator:
        write_project(job_of(scenario, str(folder), simulator.url, "openai"))
        models = {"adapter": "router", "read_on_seconds": seconds}
        settings = load_settings(folder, data_dir=folder / ".mesh", models=models)
        async with build_mesh(settings, project=folder, agents=[impatient(simulator, how)]) as mesh:
            client = Client.local(mesh)
            outcome = await client.ask("impatient", "go")
            total = (await client.costs()).total
    assert outcome.success, outcome.error
    assert total.cost_usd is not None and outcome.cost_usd == total.cost_usd
    return simulator, total.cost_usd, total.calls


@pytest.mark.parametrize(("how", "calls"), [("timeout", 7), ("hedge", 10)])
async def test_the_ledger_has_the_bill_of_calls_that_are_read_on(
    how: str, calls: int, tmp_path: Path
) -> None:
    simulator, booked, rows = await costs_of(how, tmp_path, seconds=120)
    assert simulator.ledger.calls == rows == calls
    assert booked == simulator.ledger.dollars


@pytest.mark.parametrize(("how", "seconds"), [("timeout", 0), ("stream", 120)])
async def test_the_ledger_has_no_less_than_the_bill_of_calls_that_are_closed(
    how: str, seconds: float, tmp_path: Path
) -> None:
    simulator, booked, rows = await costs_of(how, tmp_path, seconds=seconds)
    assert simulator.ledger.calls == rows == 7
    assert booked >= simulator.ledger.dollars
