"""Plays a scenario on a mesh, and counts what got done."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

from meshwright import Agent, Capability, Client, build_mesh, load_settings, tool
from tests.support.simulator.scenario import Scenario
from tests.support.simulator.server import Simulator
from tests.support.simulator.world import World

Wire = Literal["openai", "anthropic"]
_WORK_SECONDS = 600.0
_PROMPT = """---
description: Works on what it is given.
model: default
max_tokens: 1024
tags: [default]
variables: [agent_name, context]
---
You are {{agent_name}}.

{{context}}
"""


@dataclass(frozen=True)
class Score:
    """How a scenario went: `done` tasks have the right result, `wrong` ones another.

    `repeated` counts executions of tools beyond those that the work takes. `billed` is the provider's own
    count of dollars, `booked` the mesh's; `wasted` is what the provider billed beyond one clean pass.
    """

    scenario: str
    done: int
    wrong: int
    failed: int
    repeated: int
    billed: Decimal
    booked: Decimal
    reasons: tuple[str, ...] = ()


def agent_of(world: World) -> type[Agent]:
    """An agent with the tools of a world."""

    class Simulated(Agent):
        """Does what its model wants."""

        agent_id = "simulated"
        capabilities = (Capability("work"),)
        remembers = False

        @tool
        async def edit_file(self, project: str, path: str, text: str) -> str:
            """Replace a file of a project."""
            return world.edit_file(project, path, text)

        @tool(idempotent=True)
        async def run_tests(self, project: str) -> str:
            """Run the tests of a project."""
            return world.run_tests(project)

        @tool(idempotent=True)
        async def check_health(self, service: str) -> str:
            """Look at a service."""
            return world.check_health(service)

        @tool(idempotent=True)
        async def search(self, query: str) -> str:
            """Search for a fact."""
            return world.search(query)

    return Simulated


def write_project(folder: Path, scenario: Scenario, url: str, wire: Wire) -> None:
    """Write the files of a project whose model is a simulator at a URL."""
    (folder / "prompts").mkdir(parents=True, exist_ok=True)
    (folder / "prompts" / "simulated.prompt").write_text(_PROMPT)
    million = Decimal(1_000_000)
    prices = scenario.prices
    base = f"{url}/v1" if wire == "openai" else url
    (folder / "litellm_config.yaml").write_text(
        f"""model_list:
  - model_name: default
    litellm_params:
      model: {wire}/simulated
      api_base: {base}
      api_key: sk-simulated
      tags: [default]
    model_info:
      input_cost_per_token: {Decimal(str(prices.input)) / million:f}
      output_cost_per_token: {Decimal(str(prices.output)) / million:f}
      cache_read_input_token_cost: {Decimal(str(prices.cached)) / million:f}
      cache_creation_input_token_cost: {Decimal(str(prices.cache_write)) / million:f}
      max_input_tokens: {scenario.window}
"""
    )


async def play(scenario: Scenario, folder: Path, *, wire: Wire = "openai", **settings: Any) -> Score:
    """Play a scenario once on a mesh in this process, with its project in an empty folder."""
    world = World(folder / "world.db", scenario.steps)
    async with Simulator(scenario) as simulator:
        write_project(folder, scenario, simulator.url, wire)
        chosen = load_settings(folder, **{"data_dir": folder / ".mesh", "model": "router", **settings})
        async with build_mesh(chosen, project=folder, agents=[agent_of(world)]) as mesh:
            client = Client.local(mesh)
            items = [f"item-{n}" for n in range(1, scenario.tasks + 1)]
            outcomes = await asyncio.gather(
                *(
                    client.ask(f"Do work item {item}.", agent_id="simulated", timeout=_WORK_SECONDS)
                    for item in items
                )
            )
            costs = await client.costs()
    done = wrong = repeated = 0
    for item, outcome in zip(items, outcomes, strict=True):
        is_right = outcome.success and (outcome.result or {}).get("text") == world.expected(
            scenario.persona, item
        )
        done += is_right
        wrong += outcome.success and not is_right
        repeated += max(0, world.executions(item) - world.needed(scenario.persona))
    world.close()
    return Score(
        scenario=scenario.name,
        done=done,
        wrong=wrong,
        failed=len(outcomes) - done - wrong,
        repeated=repeated,
        billed=Decimal(str(round(simulator.ledger.dollars, 9))),
        booked=costs.total.cost_usd or Decimal(0),
        reasons=tuple(str(outcome.error) for outcome in outcomes if not outcome.success),
    )
