"""`mesh budgets`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from meshwright.cli.client import Document, MeshClient
from meshwright.cli.options import json_option, mesh_options

HEADS = ("budget", "of", "window", "limit", "spent", "reserved", "renews")


@click.command()
@json_option
@mesh_options
def budgets(as_json: bool, url: str | None, data: Path | None) -> None:
    """Show how much may be spent, and how much is."""
    from meshwright.cli.connect import talk

    async def list_them(mesh: MeshClient) -> list[Document]:
        return await mesh.budgets()

    found = talk(url, data, list_them)
    if as_json:
        click.echo(json.dumps(found, ensure_ascii=False, indent=2))
    elif found:
        click.echo(_table(found))
    else:
        click.echo("there is no budget; mesh.toml declares them as [[budgets]]", err=True)


def _table(found: list[Document]) -> str:
    from meshwright.cli.tables import table

    return table(HEADS, [_row(each) for each in found], shorten=[HEADS[-1], HEADS[0]])


def _row(view: Document) -> list[str]:
    from meshwright.cli.lines import dollars
    from meshwright.cli.tables import local_time

    name = view["budget"] if view["hard"] else f"{view['budget']} (soft)"
    whose = "the mesh" if view["scope"] == "mesh" else f"{view['scope']} {view['key']}"
    amounts = [dollars(view[field]) for field in ("limit_usd", "spent_usd", "reserved_usd")]
    return [name, whose, view["window"], *amounts, local_time(view["renews_at"]) or "never"]
