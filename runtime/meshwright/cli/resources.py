"""The things that a mesh has, as data: the route that lists them, the columns of their table, their commands.

`group_of` makes the commands of one of them; commands that a table cannot describe are added to that group.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from urllib.parse import quote

import click
from click.core import ParameterSource

from meshwright.cli.connect import Connection, Need, talk
from meshwright.cli.options import UNITS, Target, json_option, mesh_options
from meshwright.cli.output import Column, Document, dollars, echo_json, local_time, printable, show


def _always(answer: Document) -> bool:
    return True


@dataclass(frozen=True)
class Verb:
    """A command on one thing: a request, and the sentence that reports its answer.

    `path` follows the thing's own path. `says` gets the answer, with the id as `id`; without it the answer is
    printed as JSON, but for the fields in `hides`. The exit status is 1 if `succeeded` is false.
    """

    name: str
    help: str
    says: Callable[[Document], str] | None = None
    method: str = "POST"
    path: str = ""
    hides: Sequence[str] = ()
    succeeded: Callable[[Document], bool] = _always

    def run(self, target: Target, path: str, name: str) -> int:
        """Send the request and print its answer; returns the exit status."""

        async def request(mesh: Connection) -> Any:
            return await mesh.client.call(self.method, f"{path}{self.path}")

        answer = talk(target, request, need="state" if self.method == "GET" else "change") or {}
        if self.says is None:
            echo_json({field: value for field, value in answer.items() if field not in self.hides})
            return 0
        succeeded = self.succeeded(answer)
        click.echo(self.says({"id": name, **answer}), err=not succeeded)
        return 0 if succeeded else 1


@dataclass(frozen=True)
class Resource:
    """Things of one kind: `path` lists them, and with an id after it is one of them.

    `help` describes the group of their commands, `lists` the command `list` where it says more; `empty` is
    printed in place of a table without rows.
    """

    name: str
    path: str
    columns: Sequence[Column]
    help: str
    empty: str
    lists: str = ""
    id: str = "ID"
    need: Need = "state"
    verbs: Sequence[Verb] = ()

    def path_of(self, name: str) -> str:
        """The path of one of them."""
        return f"{self.path}/{quote(name, safe='')}"

    def items(self, target: Target) -> list[Document]:
        """All of them, as the chosen mesh lists them."""

        async def find(mesh: Connection) -> list[Document]:
            return await mesh.client.items(self.path)

        return talk(target, find, need=self.need)


def group_of(resource: Resource, find: Callable[[Target], list[Document]] | None = None) -> click.Group:
    """The commands of a resource: alone and as `list` it lists them, with `find` where its route does not."""

    def show_all(target: Target, *, as_json: bool) -> None:
        found = (find or resource.items)(target)
        show(found, resource.columns, as_json=as_json, empty=resource.empty)

    @click.group(resource.name, help=resource.help, invoke_without_command=True)
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
        return verb.run(target, resource.path_of(name), name)


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


def _or_never(time: str | None) -> str:
    return local_time(time) or "never"


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
        Column("renews", "renews_at", _or_never, cut=1),
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
        Column("last used", "used_at", _or_never),
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


def model_of(config: Document) -> str:
    """The model of a configuration, as its provider and it are named: `ollama/llama3`."""
    return f"{config['llm_provider']}/{config['llm_model']}"


def state_of(config: Document) -> str:
    """The marks of a configuration: default, inactive."""
    return ", ".join(["default"] * config["is_default"] + ["inactive"] * (not config["is_active"]))


def _yes_or_no(value: bool) -> str:
    return "yes" if value else "no"


CONFIGS = Resource(
    "agents",
    "/api/agents",
    (
        Column("agent", "agent_id"),
        Column("model", write=model_of),
        Column("endpoint", "llm_endpoint", cut=2),
        Column("key", "has_api_key", _yes_or_no),
        Column("state", write=state_of),
        Column("changed", "updated_at", _or_never, cut=1),
    ),
    help="""Configure which model each agent calls.

    An active configuration decides the agent's next call, on every worker, without a restart. `default`
    stands for the tenant's default agent, which counts for agents without a configuration of their own.
    """,
    lists="List the configurations, without keys.",
    empty="no agent is configured; mesh config agents set AGENT --provider NAME --model NAME does it",
    id="AGENT",
    verbs=(
        Verb("show", "Show one configuration as JSON, without its key.", method="GET", hides=["problem"]),
        Verb(
            "delete",
            "Delete a configuration with its key; the agent calls what its prompt names again.",
            lambda config: f"the configuration of {config['agent_id']} is deleted",
            method="DELETE",
        ),
    ),
)


def when(schedule: Document) -> str:
    """The rule by which a schedule is due."""
    if schedule.get("cron"):
        return f"{schedule['cron']} ({schedule['zone']})"
    return f"at {local_time(schedule['at'])}" if schedule.get("at") else f"every {_interval(schedule)}"


def _interval(schedule: Document) -> str:
    seconds = schedule["every_seconds"]
    unit = next(unit for unit in "dhms" if seconds % UNITS[unit] == 0 or unit == "s")
    return f"{seconds / UNITS[unit]:g}{unit}"


def addressee(schedule: Document) -> str:
    """The agent, or the capability, that a schedule's tasks are for."""
    return schedule.get("agent_id") or schedule.get("capability") or ""


def _last_run(run: Document | None) -> str:
    return f"{run['status']} {local_time(run['at'])}" if run else ""


def result_of(run: Document) -> str:
    """The task that a run has started, or why it has not."""
    if run["status"] == "started":
        return f"task {run['task_id']}"
    return run.get("reason") or (f"{run['count']:,} due times" if run["count"] > 1 else "")


def _resumed(schedule: Document) -> str:
    due = local_time(schedule.get("next_due_at"))
    return f"resumed: {schedule['id']}; {f'next {due}' if due else 'it has ended'}"


SCHEDULES = Resource(
    "schedules",
    "/schedules",
    (
        Column("schedule", "id"),
        Column("status", "status"),
        Column("when", write=when, cut=2),
        Column("next", "next_due_at", local_time),
        Column("agent", write=addressee, cut=3),
        Column("last run", "last_run", _last_run, cut=1),
    ),
    help="""List schedules, make them, pause, resume and run them.

    A schedule submits a task at its due times, while the mesh runs.
    """,
    lists="List schedules with their next due time and the result of the last.",
    empty="there are no schedules; mesh schedules create makes one",
    verbs=(
        Verb(
            "pause",
            "Run nothing until it is resumed. Due times that pass meanwhile are missed.",
            lambda schedule: f"paused: {schedule['id']}",
            path="/pause",
        ),
        Verb(
            "resume", "Go on, and make up for what was missed as --catch-up says.", _resumed, path="/resume"
        ),
        Verb(
            "run",
            "Run it now, whatever is open; its due times stay as they are.",
            lambda run: f"{run['status']}: {printable(result_of(run))}",
            path="/run",
            succeeded=lambda run: run["status"] == "started",
        ),
        Verb(
            "delete",
            "Delete a schedule. Tasks that it has started go on.",
            lambda schedule: f"deleted: {schedule['id']}",
            method="DELETE",
        ),
    ),
)
