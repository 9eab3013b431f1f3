"""The command `mesh workers`."""

from __future__ import annotations

from typing import Any

import click

from meshwright.component import Column
from meshwright.kit import (
    Connection,
    Document,
    Target,
    document,
    json_option,
    local_time,
    mesh_options,
    show,
    talk,
)


def _where(worker: Document) -> str:
    return f"{worker['host']}:{worker['pid']}"


def _apps(worker: Document) -> str:
    return ", ".join(worker["apps"]) or "all"


def _slots(worker: Document) -> str:
    return f"{sum(worker['agents'].values()):,}"


def _number(value: Any) -> str:
    return f"{value:,}"


_WORKERS = (
    Column("worker", write=_where),
    Column("store", "store"),
    Column("lease", "lease"),
    Column("slots", write=_slots),
    Column("running", "running", _number),
    Column("waiting", "waiting", _number),
    Column("since", "started_at", local_time, cut=1),
    Column("apps", write=_apps, cut=2),
)


@click.command()
@json_option
@mesh_options
def workers(target: Target, as_json: bool) -> None:
    """List workers with their leases, slots and tasks."""

    async def ask(mesh: Connection) -> tuple[list[Document], str]:
        empty = "a key of one tenant sees no workers; ask with one of all tenants"
        if not mesh.is_running:
            empty = f"no mesh runs on {mesh.where}; start one with: mesh up{mesh.options}; or name one: --url"
        return [document(worker) for worker in (await mesh.client.figures()).workers], empty

    rows, empty = talk(target, ask)
    show(rows, _WORKERS, as_json=as_json, empty=empty)
