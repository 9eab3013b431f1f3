"""Works on a scenario with a mesh: in this process, or by `mesh up` on the files that it writes."""

from __future__ import annotations

import asyncio
import json
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

from meshwright import Agent, Capability, Client, Delegation, Run, tool
from meshwright.mesh.app import build_mesh
from tests.support.settings import load_settings
from tests.support.simulator.job import Job
from tests.support.simulator.scenario import Scenario
from tests.support.simulator.score import Score, job_of, judge
from tests.support.simulator.server import Simulator
from tests.support.simulator.world import World

Wire = Literal["openai", "anthropic"]
_PROMPT = """---
description: Works on what it is given.
model: default
max_tokens: 1024
tags: [default]
variables: [agent_name]
---
You are {{agent_name}}.
"""
_ACTOR = """from tests.support.simulator.job import Job
from tests.support.simulator.play import agent_of, lead_of

JOB = Job.decode({job!r})
Simulated, Lead = agent_of(JOB.world()), lead_of(JOB)
Simulated.__module__ = Lead.__module__ = __name__
"""


def agent_of(world: World) -> type[Agent]:
    """An agent with the tools of a world; each of them may be repeated."""

    class Simulated(Agent):
        """Does what its model wants."""

        agent_id = "simulated"
        capabilities = (Capability("work"),)
        remembers = False
        max_concurrency = 100

        @tool(idempotent=True)
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


def lead_of(job: Job) -> type[Agent]:
    """An agent that has all items of a job done at once, and answers with their answers as JSON."""

    class Lead(Agent):
        """Delegates."""

        agent_id = "lead"
        capabilities = (Capability("leading"),)
        delegates_to = ("simulated",)
        prompt = "simulated"
        remembers = False

        async def run(self, run: Run) -> str:
            wanted = [Delegation("simulated", job.request(item)) for item in job.items]
            answers = await run.delegate_all(wanted, return_exceptions=True)
            return json.dumps([None if isinstance(answer, Exception) else answer for answer in answers])

    return Lead


def write_project(job: Job, *, actor: bool = False) -> Path:
    """Write a project whose model is a simulator, with `actor` its agent too; returns its folder."""
    folder = job.path
    (folder / "prompts").mkdir(parents=True, exist_ok=True)
    (folder / "prompts" / "simulated.prompt").write_text(_PROMPT)
    if actor:
        (folder / "actors").mkdir(exist_ok=True)
        (folder / "actors" / "simulated.py").write_text(_ACTOR.format(job=job.encode()))
    base = f"{job.url}/v1" if job.wire == "openai" else job.url
    prices = "".join(f"\n      {name}: {price}" for name, price in job.prices.items())
    (folder / "litellm_config.yaml").write_text(
        f"""model_list:
  - model_name: default
    litellm_params:
      model: {job.wire}/simulated
      api_base: {base}
      api_key: sk-simulated
      tags: [default]
    model_info:
      max_input_tokens: {job.window}{prices}
"""
    )
    return folder


async def work(job: Job, timeout: float | None = None, **settings: Any) -> Decimal:
    folder, world = write_project(job), job.world()
    limits = {"max_steps": min(1000, job.max_steps), "max_repeats": 1000}
    chosen = load_settings(folder, **{"data_dir": folder / ".mesh", "model": "router", **limits, **settings})
    async with build_mesh(chosen, project=folder, agents=[agent_of(world)]) as mesh:
        client = Client.local(mesh)

        async def do(item: str) -> None:
            outcome = await client.ask("simulated", job.request(item), idempotency_key=item, timeout=timeout)
            text = (outcome.result or {}).get("text") if outcome.success else None
            job.write(item, text, None if outcome.success else str(outcome.error))

        await asyncio.gather(*map(do, job.open_items()))
        costs = await client.costs()
    world.close()
    return costs.total.cost_usd or Decimal(0)


async def play(
    scenario: Scenario,
    folder: Path,
    *,
    wire: Wire = "openai",
    speed: float = 1.0,
    timeout: float | None = None,
    **settings: Any,
) -> Score:
    """Play a scenario once on a mesh in this process, with its project in a folder."""
    async with Simulator(scenario, speed=speed) as simulator:
        job = job_of(scenario, str(folder), simulator.url, wire)
        booked = await work(job, timeout, **settings)
    return judge(scenario, job, simulator.ledger, booked)
