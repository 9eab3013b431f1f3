"""`mesh agents`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from meshwright.cli.client import Document, MeshClient
from meshwright.cli.options import json_option, mesh_options


@click.command()
@json_option
@mesh_options
def agents(as_json: bool, url: str | None, data: Path | None) -> None:
    """List agents with their capabilities and status."""
    from meshwright.cli.connect import talk

    async def list_them(mesh: MeshClient) -> list[Document]:
        return await mesh.agents()

    found = talk(url, data, list_them)
    click.echo(json.dumps(found, ensure_ascii=False, indent=2) if as_json else _table(found))


def _table(found: list[Document]) -> str:
    from meshwright.cli.tables import local_time, table

    rows = [
        [
            agent["agent_id"],
            agent["status"] if agent.get("healthy", True) else "unhealthy",
            local_time(agent.get("last_seen")),
            agent.get("problem") or _abilities(agent),
        ]
        for agent in found
    ]
    return table(["agent", "status", "last seen", "can do"], rows)


def _abilities(agent: Document) -> str:
    if agent.get("kind") == "system":
        return "(part of the mesh)"
    return ", ".join(_ability(capability) for capability in agent.get("capabilities", []))


def _ability(capability: Document) -> str:
    weight = capability.get("weight", 1)
    marks = ["preferred"] if capability.get("preferred") else []
    marks += [f"{weight:g}"] if weight != 1 else []
    return f"{capability['name']} ({', '.join(marks)})" if marks else capability["name"]
