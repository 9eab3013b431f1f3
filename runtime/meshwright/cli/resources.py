"""The commands that follow from the description of a resource, and the resources that have no other home.

Commands that a table cannot describe are added to the group that `group_of` makes.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import click
from click.core import ParameterSource

from meshwright.cli.connect import Connection, talk
from meshwright.cli.options import Target, json_option, mesh_options
from meshwright.cli.output import echo_json, show
from meshwright.core.display import Document, dollars, local_time, or_never
from meshwright.core.resources import Column, Resource, Verb


def items_of(resource: Resource, target: Target) -> list[Document]:
    """All things of a resource, as the chosen mesh lists them."""

    async def find(mesh: Connection) -> list[Document]:
        return await mesh.client.items(resource.path)

    return talk(target, find, need=resource.need)


def group_of(resource: Resource, find: Callable[[Target], list[Document]] | None = None) -> click.Group:
    """The commands of a resource: alone and as `list` it lists them, with `find` where its route does not."""

    def show_all(target: Target, *, as_json: bool) -> None:
        found = find(target) if find else items_of(resource, target)
        show(found, resource.columns, as_json=as_json, empty=resource.empty)

    @click.group(resource.command or resource.name, help=resource.help, invoke_without_command=True)
    @json_option
    @mesh_options
    @click.pass_context
    def group(ctx: click.Context, target: Target, as_json: bool) -> None:
        if ctx.invoked_subcommand is None:
            show_all(target, as_json=as_json)
            return
        misplaced = [
            name for name in ctx.params if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE
        ]
        if misplaced:
            raise click.UsageError(f"Give its options after {ctx.command_path} {ctx.invoked_subcommand}")

    @group.command("list", help=resource.lists or resource.help)
    @json_option
    @mesh_options
    def list_all(target: Target, as_json: bool) -> None:
        show_all(target, as_json=as_json)

    for verb in resource.verbs:
        _add(group, resource, verb)
    return group


def _add(group: click.Group, resource: Resource, verb: Verb) -> None:
    @group.command(verb.name, help=verb.help)
    @click.argument("name", metavar=resource.id)
    @mesh_options
    def change(target: Target, name: str) -> int:
        async def request(mesh: Connection) -> Any:
            return await mesh.client.call(verb.method, f"{resource.path_of(name)}{verb.path}")

        answer = talk(target, request, need="state" if verb.method == "GET" else "change") or {}
        if verb.says is None:
            echo_json({field: value for field, value in answer.items() if field not in verb.hides})
            return 0
        succeeded = verb.succeeded(answer)
        click.echo(verb.says({"id": name, **answer}), err=not succeeded)
        return 0 if succeeded else 1


def _abilities(agent: Document) -> str:
    if agent.get("problem"):
        return agent["problem"]
    if agent.get("kind") == "system":
        return "(part of the mesh)"
    return ", ".join(map(_ability, agent.get("capabilities", [])))


def _ability(capability: Document) -> str:
    weight = capability.get("weight", 1)
    marks = ["preferred"] * bool(capability.get("preferred")) + [f"{weight:g}"] * (weight != 1)
    return f"{capability['name']} ({', '.join(marks)})" if marks else capability["name"]


def _agent_status(agent: Document) -> str:
    return agent["status"] if agent.get("healthy", True) else "unhealthy"


AGENTS = Resource(
    "agents",
    "/agents",
    (
        Column("agent", "agent_id"),
        Column("status", write=_agent_status),
        Column("last seen", "last_seen", local_time),
        Column("can do", write=_abilities),
    ),
    help="List agents with their capabilities and status.",
    empty="there are no agents; mesh doctor says more",
    need="log",
)


def _named_budget(budget: Document) -> str:
    return budget["budget"] if budget["hard"] else f"{budget['budget']} (soft)"


def _owner(budget: Document) -> str:
    return (
        "the mesh"
        if budget["scope"] == "mesh"
        else f"{budget['scope']} {budget.get('key', budget.get('of'))}"
    )


def _known(budget: Document) -> str:
    return dollars(Decimal(budget["spent_usd"]) - Decimal(budget.get("estimated_usd", 0)))


def _estimated(budget: Document) -> str:
    return dollars(budget.get("estimated_usd", "0"))


def spent_of(budget: Document) -> str:
    """How much of a budget is spent and reserved, in a line."""
    spent = (
        f"{_known(budget)} known, {_estimated(budget)} estimated, {dollars(budget['reserved_usd'])} reserved"
    )
    return f"{dollars(budget['limit_usd'])}, on empty {budget['on_empty']}: {spent}"


BUDGETS = Resource(
    "budgets",
    "/budgets",
    (
        Column("budget", write=_named_budget, cut=2),
        Column("of", write=_owner),
        Column("window", "window"),
        Column("limit", "limit_usd", dollars),
        Column("known", write=_known),
        Column("estimated", write=_estimated),
        Column("reserved", "reserved_usd", dollars),
        Column("renews", "renews_at", or_never, cut=1),
    ),
    help="Show budgets and spend, and raise them.",
    empty="there is no budget; mesh.toml declares them as [[ledger.budgets]], and mesh allow sets one",
)


def _all_tenants(tenant_id: str | None) -> str:
    return tenant_id or "all"


def _allowed(allowance: Document) -> str:
    return f"{dollars(allowance['limit_usd'])}/{allowance['window']}"


ALLOWANCES = Resource(
    "allow",
    "/allowances",
    (
        Column("whose", write=_owner),
        Column("tenant", "tenant_id", _all_tenants),
        Column("allowed", write=_allowed),
        Column("on empty", "on_empty"),
    ),
    help="Allow an agent, a tenant or a tag an amount a day.",
    empty="nothing is allowed; mesh allow AGENT 5/day sets it",
)


def _key_budget(key: Document) -> str:
    return f"${key['budget']['limit_usd']}/{key['budget']['window']}" if key["budget"] else ""


def _since(key: Document) -> str:
    if key["revoked_at"]:
        return f"revoked {local_time(key['revoked_at'])}"
    if key["expires_at"]:
        is_over = datetime.fromisoformat(key["expires_at"]) <= datetime.now(UTC)
        return f"{'expired' if is_over else 'expires'} {local_time(key['expires_at'])}"
    return local_time(key["created_at"])


KEYS = Resource(
    "keys",
    "/keys",
    (
        Column("key", "key_id", cut=3, from_end=True),
        Column("name", "agent_id", cut=4),
        Column("tenant", "tenant_id", cut=2),
        Column("roles", "roles", ",".join, cut=1),
        Column("budget", write=_key_budget, cut=1),
        Column("last used", "used_at", or_never),
        Column("since", write=_since),
    ),
    help="""Manage virtual API keys.

    Until you create a key, callers on the mesh's own machine need none. Creating the first one makes keys
    mandatory for every request that runs or shows tasks, models, events, costs or budgets. `mesh keys open`
    undoes that. Commands on this machine go on working: they use the admin token of the data folder.
    """,
    lists="List the keys that were made: whose, since when; never the keys themselves.",
    empty="no keys; mesh keys create --name ID makes one",
)
