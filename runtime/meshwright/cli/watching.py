"""Seeing a task through: its road on stderr, its answer on stdout, its end as the exit status."""

from __future__ import annotations

import asyncio
import json
import sys
from contextlib import aclosing

import click

from meshwright.cli.client import Document, MeshClient
from meshwright.cli.drawing import drawing
from meshwright.cli.lines import Line, line_of
from meshwright.cli.road import road


async def watch(mesh: MeshClient, task_id: str, *, quiet: bool) -> Document:
    """Draw the road of a task to its end, and return its outcome.

    Interrupted, a task of a mesh that ends with this command is cancelled; any other goes on.
    """
    try:
        return await _draw(mesh, task_id, quiet=quiet)
    except asyncio.CancelledError:
        if mesh.is_running:
            click.echo(f"the task goes on; to end it: mesh cancel {task_id}{mesh.options}", err=True)
        else:
            await mesh.cancel(task_id)
        raise


async def _draw(mesh: MeshClient, task_id: str, *, quiet: bool) -> Document:
    outcome: Document = {}
    with drawing(quiet=quiet) as canvas:
        if mesh.about:
            canvas.line(0, Line("mesh", mesh.about))
        async with aclosing(road(mesh, task_id)) as steps:
            async for depth, event in steps:
                outcome = event["payload"]
                if line := line_of(event):
                    canvas.line(depth, line)
        canvas.line(0, Line("events", f"mesh events --task {task_id}{mesh.options}"))
    return outcome


def answer(outcome: Document, *, as_json: bool) -> int:
    """Print the answer, or the whole outcome as JSON; returns the exit status that says how it went."""
    text = (outcome.get("result") or {}).get("text") or ""
    if as_json:
        click.echo(json.dumps(outcome, ensure_ascii=False))
    elif text:
        click.echo(for_terminal(text) if sys.stdout.isatty() else text)
    if not outcome["success"] and not as_json:
        click.echo(f"mesh: the task {outcome['status'].replace('_', ' ')}{_why(outcome)}", err=True)
    return 0 if outcome["success"] else 1


def _why(outcome: Document) -> str:
    error = outcome.get("error") or {}
    return f": {' '.join(str(error.get('message', '')).split())}" if error else ""


def for_terminal(text: str) -> str:
    """A text without what would steer the terminal; lines and tabs stay."""
    return "".join(character for character in text if character.isprintable() or character in "\n\t")
