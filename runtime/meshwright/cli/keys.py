"""`mesh keys`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from meshwright.cli.client import Document
from meshwright.cli.options import json_option, mesh_options

if TYPE_CHECKING:
    from meshwright.cli.keyring import Keyring
    from meshwright.ledger.proxy import LiteLLMProxy

ResultT = TypeVar("ResultT")
ONCE = "It is shown this once. It goes into `Authorization: Bearer`, or the api_key of a client."


@click.group(no_args_is_help=False)
def keys() -> None:
    """Look after the keys for callers of the models.

    While none was ever made, callers on the mesh's own machine need none. With the first one all need one.
    """


@keys.command()
@click.option("--agent", "agent_id", required=True, metavar="ID", help="Whose calls they are.")
@click.option("--tenant", "tenant_id", default="default", metavar="ID", help="Whose data they are.")
@click.option("--budget", metavar="USD/WINDOW", help="What may be spent: 5.00/day, or hour, month, total.")
@click.option("--proxy", is_flag=True, help="A key of the LiteLLM proxy at LITELLM_BASE_URL.")
@json_option
@mesh_options
def create(
    agent_id: str,
    tenant_id: str,
    budget: str | None,
    proxy: bool,
    as_json: bool,
    url: str | None,
    data: Path | None,
) -> None:
    """Make a key, and print it on stdout, this once."""

    async def make(there: Keyring) -> Document:
        return await there.create(agent_id, tenant_id, budget)

    async def make_there(there: LiteLLMProxy) -> Document:
        from meshwright.ledger.keys import budget_of

        limit = budget_of(budget, "proxy", agent_id) if budget else None
        made = await there.create_key(agent_id, tenant_id=tenant_id, budget=limit)
        return {"key_id": made.token, "agent_id": agent_id, "tenant_id": tenant_id, "key": made.key}

    made = on_proxy(make_there) if proxy else with_keys(url, data, make)
    if as_json:
        click.echo(json.dumps(made, ensure_ascii=False, indent=2))
        return
    click.echo(made["key"])
    click.echo(f"key {made['key_id']} of {agent_id}, tenant {tenant_id}. {ONCE}", err=True)


@keys.command("list")
@json_option
@mesh_options
def list_keys(as_json: bool, url: str | None, data: Path | None) -> None:
    """List the keys that were made: whose, since when; never the keys themselves."""

    async def find(there: Keyring) -> list[Document]:
        return await there.list()

    found = with_keys(url, data, find)
    if as_json:
        click.echo(json.dumps(found, ensure_ascii=False, indent=2))
    elif found:
        click.echo(_table(found))
    else:
        click.echo("no keys; mesh keys create --agent ID makes one", err=True)


@keys.command()
@click.argument("key_id", metavar="ID")
@click.option("--proxy", is_flag=True, help="A key of the LiteLLM proxy, by its token.")
@mesh_options
def revoke(key_id: str, proxy: bool, url: str | None, data: Path | None) -> None:
    """End a key at once, and for good."""

    from meshwright.cli.ids import meant

    async def end(there: Keyring) -> str:
        key = meant(key_id, (key["key_id"] for key in await there.list()), "key")
        await there.revoke(key)
        return key

    async def end_there(there: LiteLLMProxy) -> str:
        await there.delete_key(key_id)
        return key_id

    ended = on_proxy(end_there) if proxy else with_keys(url, data, end)
    click.echo(f"key {ended} is revoked")


def with_keys(url: str | None, data: Path | None, use: Callable[[Keyring], Awaitable[ResultT]]) -> ResultT:
    """Do something with the keys of the mesh that `--url` and `--data` choose."""
    from meshwright.cli.keyring import keyring

    async def run() -> ResultT:
        async with keyring(url, data) as there:
            return await use(there)

    return asyncio.run(run())


def on_proxy(use: Callable[[LiteLLMProxy], Awaitable[ResultT]]) -> ResultT:
    """Do something with the proxy that the settings name. Raises InvalidInput where they name none."""
    from meshwright.ledger.proxy import proxy_of
    from meshwright.settings import load_settings

    settings = load_settings(Path())
    key = settings.litellm_api_key
    there = proxy_of(settings.litellm_base_url, key.get_secret_value() if key else None)

    async def run() -> ResultT:
        return await use(there)

    return asyncio.run(run())


def _table(found: list[Document]) -> str:
    from meshwright.cli.tables import local_time, table

    rows = [
        [
            key["key_id"],
            key["agent_id"],
            key["tenant_id"],
            _budget(key["budget"]),
            f"revoked {local_time(key['revoked_at'])}"
            if key["revoked_at"]
            else local_time(key["created_at"]),
        ]
        for key in found
    ]
    return table(
        ["key", "agent", "tenant", "budget", "since"], rows, shorten=("budget", "tenant", "key", "agent")
    )


def _budget(budget: Document | None) -> str:
    return f"${budget['limit_usd']}/{budget['window']}" if budget else ""
