"""`mesh tasks`, `mesh task` and `mesh cancel`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from meshwright.cli.client import Document, MeshClient
from meshwright.cli.options import json_option, mesh_options

SHORTEN = ("task", "model", "created", "capability", "agent")
STATUSES = ["accepted", "dispatched", "running", "waiting", "succeeded", "failed", "cancelled", "timed_out"]


@click.command()
@click.option(
    "--status", type=click.Choice(STATUSES), metavar="STATUS", help=f"One of {', '.join(STATUSES)}."
)
@click.option("--capability", metavar="NAME", help="Only tasks that ask for this capability.")
@click.option("--limit", type=click.IntRange(1, 500), default=20, show_default=True, help="At most so many.")
@json_option
@mesh_options
def tasks(
    status: str | None, capability: str | None, limit: int, as_json: bool, url: str | None, data: Path | None
) -> None:
    """List tasks, the newest first."""
    from meshwright.cli.connect import talk

    async def list_them(mesh: MeshClient) -> list[Document]:
        return await mesh.tasks(status=status, capability=capability, limit=limit)

    found = talk(url, data, list_them)
    if as_json:
        click.echo(json.dumps(found, ensure_ascii=False, indent=2))
    elif found:
        click.echo(_table(found))
    else:
        click.echo('no such tasks; mesh ask AGENT "..." makes one', err=True)


@click.command()
@click.argument("task_id", metavar="ID")
@json_option
@mesh_options
def task(task_id: str, as_json: bool, url: str | None, data: Path | None) -> None:
    """Show one task: its attempts and its outcome.

    ID may be the end or the beginning of an id that only one task has.
    """
    from meshwright.cli.connect import talk
    from meshwright.cli.ids import task_id_of

    async def show_it(mesh: MeshClient) -> str:
        return await page(mesh, await mesh.task(await task_id_of(mesh, task_id)), as_json=as_json)

    click.echo(talk(url, data, show_it))


@click.command()
@click.argument("task_id", metavar="ID")
@json_option
@mesh_options
def cancel(task_id: str, as_json: bool, url: str | None, data: Path | None) -> None:
    """Cancel a task.

    One that has ended stays as it is. ID may be the end or the beginning of an id that only one task has.
    """
    from meshwright.cli.connect import talk
    from meshwright.cli.ids import task_id_of

    async def cancel_it(mesh: MeshClient) -> str:
        return await page(mesh, await mesh.cancel(await task_id_of(mesh, task_id)), as_json=as_json)

    click.echo(talk(url, data, cancel_it))


def _table(found: list[Document]) -> str:
    from meshwright.cli.lines import dollars
    from meshwright.cli.tables import local_time, table

    rows = [
        [
            one["task_id"],
            one["status"],
            one.get("capability") or "",
            one.get("agent_id") or "",
            local_time(one.get("created_at")),
            one.get("model") or "",
            dollars(one.get("cost_usd")),
        ]
        for one in found
    ]
    return table(["task", "status", "capability", "agent", "created", "model", "cost"], rows, shorten=SHORTEN)


async def page(mesh: MeshClient, view: Document, *, as_json: bool) -> str:
    """A task as a person, or a program, reads it."""
    if as_json:
        return json.dumps(view, ensure_ascii=False, indent=2)
    from meshwright.cli.page import page_of

    asked: list[Document] = []
    if view["status"] == "waiting":
        asked = await mesh.events(1, task_id=view["task_id"], event_type="task.waiting")
    return page_of(view, asked[-1]["payload"] if asked else None, mesh.options)
