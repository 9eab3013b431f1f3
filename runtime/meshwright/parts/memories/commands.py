"""`mesh memory`: list, show, edit, forget and export memories."""

from __future__ import annotations

import json
from typing import Any

import click

from meshwright.kit import (
    Connection,
    Document,
    Target,
    completes,
    completes_ids,
    confirm,
    echo_json,
    from_stdin,
    json_option,
    labelled,
    local_time,
    mesh_options,
    resource_group,
    show,
    talk,
)
from meshwright.parts.memories.display import MEMORIES, owner, trusted

_KINDS = ("fact", "preference", "decision", "procedure", "failure")
_SCOPES = ("task", "agent", "project", "global")
_STATUSES = ("active", "quarantined", "superseded", "forgotten", "all")
memory = resource_group(MEMORIES)
_ID = click.argument("memory_id", metavar="ID", shell_complete=completes_ids(MEMORIES))


@memory.command("list")
@click.option("--status", type=click.Choice(_STATUSES), help="Default: active and quarantined ones.")
@click.option("--kind", type=click.Choice(_KINDS))
@click.option("--scope", type=click.Choice(_SCOPES), help="Who recalls it.")
@click.option("--agent", "agent_id", metavar="ID", shell_complete=completes("agent"), help="Who wrote it.")
@click.option("--task", "task_id", metavar="ID", help="In which task it was written.")
@click.option("--subject", metavar="NAME", help="What it is about.")
@click.option("--text", "contains", metavar="WORDS", help="A part of its text.")
@json_option
@mesh_options
def _list(target: Target, as_json: bool, **options: str | None) -> None:
    """List memories, the newest first."""
    filters = {name: value for name, value in options.items() if value is not None}
    memories = talk(target, lambda mesh: mesh.client.items(MEMORIES.path, **filters), need=MEMORIES.need)
    show(memories, MEMORIES.columns, as_json=as_json, empty=MEMORIES.empty)


@memory.command("show")
@_ID
@json_option
@mesh_options
def _show(target: Target, memory_id: str, as_json: bool) -> None:
    """Show a memory whole, with its source."""
    path = MEMORIES.item_path(memory_id)
    memory = talk(target, lambda mesh: mesh.client.call("GET", path), need="state")
    if as_json:
        echo_json(memory)
    else:
        click.echo(_page(memory))


@memory.command("edit")
@_ID
@click.option("--text", callback=from_stdin, help="What it says; - reads it from stdin.")
@click.option("--kind", type=click.Choice(_KINDS))
@click.option("--subject", metavar="NAME", help='What it is about; "" for nothing.')
@click.option("--expires", "expires_at", metavar="TIME", help='As 2027-01-31T00:00Z; "" for never.')
@mesh_options
def _edit(target: Target, memory_id: str, **options: str | None) -> None:
    """Change a memory. A text that you write has the trust of a person."""
    fields: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    if not fields:
        raise click.UsageError("give --text, --kind, --subject or --expires", click.get_current_context())
    fields |= {name: None for name in ("subject", "expires_at") if fields.get(name) == ""}
    path = MEMORIES.item_path(memory_id)
    memory = talk(target, lambda mesh: mesh.client.call("PATCH", path, body=fields), need="change")
    click.echo(f"edited: {memory['memory_id']} is {memory['status']}")


@memory.command("forget")
@click.argument("memory_id", metavar="[ID]", required=False, shell_complete=completes_ids(MEMORIES))
@click.option("--subject", metavar="NAME", help="All memories about it, for good.")
@click.option("--for-good", is_flag=True, help="Delete it at once; no undo brings it back.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@mesh_options
def _forget(target: Target, memory_id: str | None, subject: str | None, for_good: bool, yes: bool) -> None:
    """Have a memory recalled no more; mesh memory undo brings it back for some days.

    With --subject all that is known about something is deleted, for good, of every status.
    """
    if (memory_id is None) == (subject is None):
        raise click.UsageError("give either ID or --subject", click.get_current_context())
    if subject is not None:
        if not yes:
            confirm(f"All memories about {subject!r} are deleted for good.")
        params = {"subject": subject}
        deleted = talk(
            target, lambda mesh: mesh.client.call("DELETE", MEMORIES.path, **params), need="change"
        )
        count = deleted["memories"]
        click.echo(f"deleted: {count:,} {'memory' if count == 1 else 'memories'} about {subject!r}")
        return
    path = MEMORIES.item_path(memory_id or "")
    if for_good:
        if not yes:
            confirm(f"The memory {memory_id} is deleted for good.")
        talk(target, lambda mesh: mesh.client.call("DELETE", path), need="change")
        click.echo(f"deleted: {memory_id}")
    else:
        talk(target, lambda mesh: mesh.client.call("POST", f"{path}/forget"), need="change")
        click.echo(f"forgotten: {memory_id}; mesh memory undo {memory_id} brings it back")


@memory.command("export")
@mesh_options
def _export(target: Target) -> None:
    """Print all memories of the tenant as JSON, one on a line, the forgotten too."""

    async def find(mesh: Connection) -> list[Document]:
        return await mesh.client.items(MEMORIES.path, status="all", limit=500)

    for item in talk(target, find, need="state"):
        click.echo(json.dumps(item, ensure_ascii=False))


def _page(memory: Document) -> str:
    step = f", step {memory['step']}" if memory["step"] else ""
    rows = [
        ("memory", memory["memory_id"]),
        ("text", memory["text"]),
        ("kind", memory["kind"]),
        ("subject", memory["subject"]),
        ("status", memory["status"] + (f" by {memory['superseded_by']}" if memory["superseded_by"] else "")),
        ("recalled by", owner(memory)),
        ("trust", trusted(memory)),
        ("written", f"{local_time(memory['created_at'])} by {memory['agent_id'] or 'an unknown author'}"),
        ("source", f"task {memory['task_id']}{step}" if memory["task_id"] else ""),
        (
            "changed",
            f"{local_time(memory['changed_at'])} by {memory['changed_by']}" if memory["changed_at"] else "",
        ),
        ("promoted by", memory["approved_by"]),
        ("expires", local_time(memory["expires_at"])),
        ("used", f"{memory['used']:,} times, cited by {memory['helped']:,} answers"),
    ]
    return labelled(row for row in rows if row[1])
