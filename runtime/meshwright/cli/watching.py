"""Seeing a task through: its road on stderr, its answer on stdout, its end as the exit status."""

from __future__ import annotations

import asyncio
import json
import sys
from contextlib import aclosing

import click

from meshwright.cli.client import Document, MeshClient
from meshwright.cli.drawing import Drawing, drawing
from meshwright.cli.lines import Line, line_of
from meshwright.cli.road import road

DELTA = "model.delta"


def announce(mesh: MeshClient, *, quiet: bool) -> None:
    """Say what a person should know of the mesh before it works."""
    if mesh.about and not quiet:
        click.echo(mesh.about, err=True)


async def watch(mesh: MeshClient, task_id: str, *, quiet: bool) -> Document:
    """Draw the road of a task on stderr, to its end, and return its outcome.

    Interrupted, a task of a mesh that ends with this command is cancelled; any other goes on.
    """
    try:
        with drawing(quiet=quiet) as canvas:
            outcome = await draw(mesh, task_id, canvas)
            canvas.line(0, Line("events", f"mesh events --task {task_id}{mesh.options}"))
            return outcome
    except asyncio.CancelledError:
        if mesh.is_running:
            click.echo(f"the task goes on; to end it: mesh cancel {task_id}{mesh.options}", err=True)
        else:
            await mesh.cancel(task_id)
            click.echo(f"the task is cancelled; mesh task {task_id}{mesh.options} shows it", err=True)
        raise


async def draw(mesh: MeshClient, task_id: str, canvas: Drawing) -> Document:
    """Draw the road of a task, and return its outcome."""
    outcome = Document()
    async with aclosing(road(mesh, task_id)) as steps:
        async for depth, event in steps:
            outcome = event["payload"]
            if event["event_type"] == DELTA:
                canvas.words(outcome.get("text", ""), anew=outcome.get("n", 1) == 1)
                continue
            if line := line_of(event):
                canvas.line(depth, line)
    return outcome


def answer(outcome: Document, *, as_json: bool) -> int:
    """Print the answer, or the whole outcome as JSON; returns the exit status that says how it went."""
    text = _text(outcome.get("result") or {})
    if as_json:
        click.echo(json.dumps(outcome, ensure_ascii=False))
    elif text:
        click.echo(for_terminal(text) if sys.stdout.isatty() else text)
    if not outcome["success"] and not as_json:
        click.echo(f"mesh: the task {outcome['status'].replace('_', ' ')}{_why(outcome)}", err=True)
    return 0 if outcome["success"] else 1


def _text(result: Document) -> str:
    """The answer in words, or else what there is of it, as JSON."""
    if not result or "text" in result:
        return str(result.get("text") or "")
    return json.dumps(result, ensure_ascii=False, indent=2)


def _why(outcome: Document) -> str:
    error = outcome.get("error") or {}
    return f": {' '.join(str(error.get('message', '')).split())}" if error else ""


def for_terminal(text: str) -> str:
    """A text without what would steer the terminal; lines and tabs stay."""
    return "".join(character for character in text if character.isprintable() or character in "\n\t")
