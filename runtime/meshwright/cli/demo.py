"""`mesh demo`: three agents at work on the files of a folder, with nothing but this process."""

from __future__ import annotations

import asyncio
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import click

from meshwright.cli.client import Document, MeshClient
from meshwright.cli.options import data_option

FOLDER = Path(".mesh", "demo")
MAX_KEPT = 3  # demos whose data stays
MAX_ANSWER_LINES = 12


class Question(NamedTuple):
    """What one agent is asked."""

    agent_id: str
    text: str


QUESTIONS = (
    Question("researcher-agent", "Where does the code decide which agent gets a task?"),
    Question("architect-agent", "Is an accepted task safe against kill -9?"),
    Question("api-coder", "Review the latest change in the git log: what did it change?"),
)


@click.command()
@data_option
def demo(data: Path | None) -> int:
    """Show three agents at work; needs no key and no network.

    A mesh in this process, with a fresh data folder, gives three real tasks over the files of this folder
    to three agents, one of which asks another. The offline model answers, whatever keys are set.
    """
    return asyncio.run(_run(data))


async def _run(data: Path | None) -> int:
    click.echo(
        "Meshwright: three agents, one process, the files of this folder. No key, no network, no service."
    )
    async with _mesh(data) as mesh:
        click.echo(f"{mesh.about}\nA real model answers once LITELLM_BASE_URL or a provider's key is set.")
        outcomes = [await _show(mesh, number, each) for number, each in enumerate(QUESTIONS, start=1)]
        await _sum_up(mesh, outcomes)
    return 0 if all(outcome["success"] for outcome in outcomes) else 1


@asynccontextmanager
async def _mesh(data: Path | None) -> AsyncIterator[MeshClient]:
    from meshwright.cli.local import local_mesh
    from meshwright.settings import load_settings

    folder = data or _fresh_folder()
    settings = load_settings(Path(), data_dir=folder, model="offline")
    async with local_mesh(settings, works=True, options=f" --data {folder}") as mesh:
        yield mesh


def _fresh_folder() -> Path:
    from meshwright.messages import new_id

    for old in sorted(FOLDER.glob("*"))[: -MAX_KEPT + 1]:
        shutil.rmtree(old, ignore_errors=True)  # another demo may be at work there, or remove it too
    return FOLDER / new_id().lower()


async def _show(mesh: MeshClient, number: int, question: Question) -> Document:
    """Put one question, draw its road, and quote the answer."""
    from meshwright.cli.drawing import drawing
    from meshwright.cli.watching import draw

    click.secho(f"\n{number}. {question.agent_id}: {question.text}", bold=True)
    receipt = await mesh.submit({"agent_id": question.agent_id, "payload": {"text": question.text}})
    with drawing(stream=sys.stdout) as canvas:
        outcome = await draw(mesh, receipt["task_id"], canvas)
    click.echo(_quoted((outcome.get("result") or {}).get("text") or ""))
    return outcome


def _quoted(text: str) -> str:
    from meshwright.cli.watching import for_terminal

    lines = for_terminal(text).strip().splitlines()
    more = [f"... and {len(lines) - MAX_ANSWER_LINES} lines more"] if len(lines) > MAX_ANSWER_LINES else []
    return "\n".join(f"  | {line}".rstrip() for line in ["", *lines[:MAX_ANSWER_LINES], *more])


async def _sum_up(mesh: MeshClient, outcomes: list[Document]) -> None:
    from meshwright.cli.lines import dollars

    program = _program()
    cost = sum(outcome.get("cost_usd") or 0 for outcome in outcomes)
    tasks = len(await mesh.tasks(status=None, capability=None, limit=100))
    click.echo(
        f"""
{tasks} tasks, {await mesh.last_seq()} events, {dollars(cost)}. All of it is kept in {mesh.where}:
  {program} tasks{mesh.options}
  {program} task {outcomes[1]["task_id"]}{mesh.options}
  {program} events --task {outcomes[1]["task_id"]}{mesh.options}
Your turn:
  {program} ask researcher-agent "Where are the settings of the mesh read?"
  {program} up"""
    )


def _program() -> str:
    """What to type for this program: `mesh` where that is found, else its path."""
    called = Path(sys.argv[0])
    if called.name != "mesh" or shutil.which("mesh") == str(called.absolute()):
        return "mesh"
    return str(called.relative_to(Path.cwd())) if called.is_relative_to(Path.cwd()) else str(called)
