"""`mesh demo`: agents fix a failing test, in a process that is killed in the middle and one that goes on."""

from __future__ import annotations

import asyncio
import shutil
import sys
import tempfile
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING

import click

from meshwright.cli.connect import Connection
from meshwright.cli.options import data_option
from meshwright.cli.project import trust_option

if TYPE_CHECKING:
    from meshwright.core.display import Document

_FOLDER = Path(".mesh", "demo")
_MAX_KEPT = 3  # demos whose data stays
_MAX_EVENTS = 1_000
_COLOURS = {"+": "green", "-": "red", "@": "cyan"}


@click.command()
@click.option(
    "--model", default="", help="A model or a group of models that does it; by default a script plays it."
)
@data_option
@trust_option
def demo(model: str, data: Path | None) -> int:
    """Show agents fix a failing test; needs no key and no network.

    A mesh in this process, with a fresh data folder and a fresh repository: project-manager plans, api-coder
    edits a copy, qa-tester runs its tests in the sandbox. The first process gets SIGKILL in the middle. You
    see the change and decide whether it is committed. Without --model a script plays the models, whatever
    keys are set; agents, tools, sandbox, tests and git are real.
    """
    return asyncio.run(_run(data or _fresh_folder(), model))


async def _run(data: Path, model: str) -> int:
    from meshwright.cli.demo_job import REQUEST, begin_and_kill, box_of, demo_mesh, make_repository

    repository = make_repository(data)
    box = await box_of(data, model)
    click.echo(f"A repository with a failing test: {repository}")
    player = f"the model {model}" if model else "a script in the place of models (mesh demo --model NAME)"
    click.echo(f"Played by {player}; the rest is real. Sandbox: {box}.")
    click.secho(f"\nproject-manager: {REQUEST}", bold=True)
    if model:
        async with demo_mesh(data, model, box):  # a wrong name shows at once
            pass
    pid, task_id = await begin_and_kill(data, model, box)
    click.echo(f"Process {pid} began it and has got SIGKILL, in the middle. This one goes on:")
    async with demo_mesh(data, model, box) as mesh:
        outcome = await _go_on(mesh, task_id)
        await _show_change(mesh, task_id)
        await _show_costs(mesh, task_id)
    return 0 if outcome["success"] else 1


async def _go_on(mesh: Connection, task_id: str) -> Document:
    from meshwright.cli.demo_job import MODEL_CALLED, TOOL_CALLED, repeated
    from meshwright.cli.timeline import Answering, NoAnswerError, draw, drawing, follow_task, print_answer

    has_person = sys.stdin.isatty() and sys.stderr.isatty()
    if not has_person:
        click.echo("It asks a person; there is no terminal to ask at, so the demo says yes.")
    before = await mesh.client.last_seq()
    with drawing(stream=sys.stdout) as canvas:
        if has_person:
            try:
                outcome = await follow_task(mesh, task_id, canvas, Answering(mesh, canvas))
            except NoAnswerError:
                raise click.ClickException(
                    "the demo ends at its question; mesh demo begins another"
                ) from None
        else:
            async with asyncio.TaskGroup() as tasks:
                answering = tasks.create_task(_say_yes(mesh))
                outcome = await draw(mesh.client, task_id, canvas)
                answering.cancel()
    click.echo()
    print_answer(outcome, as_json=False)
    calls = [
        event
        for event_type in (MODEL_CALLED, TOOL_CALLED)
        for event in await mesh.client.events(event_type=event_type, limit=_MAX_EVENTS)
    ]
    first = sum((event.seq or 0) <= before for event in calls)
    click.echo(
        f"{first} calls of models and tools had ended before SIGKILL, {len(calls) - first} after it; "
        f"{repeated(calls)} were repeated."
    )
    return outcome


async def _say_yes(mesh: Connection) -> None:
    """Answer in the place of the person, where the demo has no terminal to ask at."""
    from meshwright.core.schema import takes_approval
    from meshwright.core.task_events import TaskWaiting

    async with aclosing(mesh.client.stream(after_seq=0, event_type="task.waiting")) as events:
        async for event in events:
            waiting = TaskWaiting.from_payload(event.payload)
            if event.task_id and waiting.kind == "person":
                is_decision = takes_approval(waiting.answer_schema)
                answer = {"approve": True} if is_decision else "Decide as you think best."
                await mesh.client.answer(event.task_id, answer, key=waiting.key)


async def _show_change(mesh: Connection, task_id: str) -> None:
    change: Document = await mesh.client.call("GET", f"/trees/{task_id}/diff")
    click.secho("\nThe change:", bold=True)
    for line in change["diff"].splitlines():
        click.secho(f"  {line}", fg=_COLOURS.get(line[:1]))


async def _show_costs(mesh: Connection, task_id: str) -> None:
    from meshwright.cli.batches import show_tree
    from meshwright.cli.output import document

    click.secho("\nThe tasks, and what they cost:", bold=True)
    show_tree(document(await mesh.client.tree(task_id)))
    program = _program()
    click.echo(
        f"""
All of it is kept in {mesh.where}:
  {program} task {task_id}{mesh.options}
  {program} events --task {task_id}{mesh.options}
  {program} trees show {task_id}{mesh.options}
Your turn, in a repository of yours:
  {program} ask api-coder "Why does the test fail?"
  {program} up"""
    )


def _fresh_folder() -> Path:
    from meshwright.sql.folder import make_private

    make_private(_FOLDER.parent)
    _FOLDER.mkdir(mode=0o700, exist_ok=True)
    for old in sorted(_FOLDER.iterdir(), key=lambda path: path.stat().st_mtime)[: -_MAX_KEPT + 1]:
        shutil.rmtree(old, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix="", dir=_FOLDER))


def _program() -> str:
    called = Path(sys.argv[0])
    if called.name != "mesh" or shutil.which("mesh") == str(called.absolute()):
        return "mesh"
    return str(called.relative_to(Path.cwd())) if called.is_relative_to(Path.cwd()) else str(called)
