"""The clerk of the demo, and the program that ends itself by SIGKILL while the clerk works."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from contextlib import aclosing
from pathlib import Path
from typing import Any

import click

from meshwright.agent import Agent
from meshwright.agents.shipped import shipped_agents
from meshwright.cli.connect import in_process
from meshwright.core.capability import Capability
from meshwright.run import Run
from meshwright.settings import Settings, load_settings
from meshwright.work.people import Approval

CALLED = "model.called"
_PROOFREAD_SECONDS = 0.5


class Clerk(Agent):
    """Summarises a text, proofreads the summary, and files it if a person approves."""

    agent_id = "clerk"
    capabilities = (Capability("filing"),)
    prompt_text = "You are {{agent_name}}.\n\n{{context}}"

    async def run(self, run: Run) -> str:
        """Call the model, work for a while, ask a person."""
        summary = await run.ask(str(run.task.payload.get("text")))
        await run.step("proofread", _proofread)
        decision = await run.ask_person("May this summary be filed?", shape=Approval)
        return f"{'Filed' if decision.approve else 'Thrown away'}: {summary}"


async def _proofread() -> str:
    await asyncio.sleep(_PROOFREAD_SECONDS)
    return "no mistake found"


def demo_agents() -> list[type[Agent]]:
    """The agents of the demo: those that come with Meshwright, and the clerk."""
    return [*shipped_agents(), Clerk]


def demo_settings(data: Path, **tables: Any) -> Settings:
    """The settings of the demo: those of the project, with the offline model."""
    return load_settings(Path(), data_dir=data, models={"adapter": "offline"}, **tables)


async def _work(data: Path, text: str) -> None:
    """Run a task of the clerk until the call of its model is on disk, and no further."""
    async with in_process(demo_settings(data), "work", agents=[Clerk]) as mesh:
        receipt = await mesh.client.submit(text, agent_id=Clerk.agent_id)
        click.echo(receipt.task_id)
        async with aclosing(mesh.client.follow(receipt.task_id)) as events:
            async for event in events:
                if event.event_type == CALLED:
                    os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    """Print the id of a new task, and end in the middle of it."""
    asyncio.run(_work(Path(sys.argv[1]), sys.argv[2]))
