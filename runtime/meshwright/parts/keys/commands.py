"""The commands of administrators: `mesh keys`, `mesh erase`, `mesh verify` and `mesh secrets`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from meshwright.component import KEY_ROLES
from meshwright.console.connect import match_id
from meshwright.core.access import ALL_ROLES
from meshwright.kit import (
    Connection,
    Document,
    Noun,
    Role,
    Target,
    completes,
    completes_ids,
    confirm,
    document,
    echo_json,
    json_option,
    mesh_options,
    nearest,
    resource_group,
    say,
    talk,
    yes_option,
)
from meshwright.money.commands import on_proxy
from meshwright.parts.keys.display import KEYS

if TYPE_CHECKING:
    from meshwright.models.server import AgentKeys
    from meshwright.money.proxy import LiteLLMProxy

_CLOSES = (
    "This is the first key: with it, every request to the HTTP API needs a key or the admin token, "
    "also from this machine; `mesh keys open` undoes that."
)
_OPENS = "This revokes every key, and callers on the mesh's machine then need none."
_NOT_REQUIRED = "Callers on the mesh's machine need no key until you create one."
_STILL_REQUIRED = "The settings say keys.required = true: callers still need a key or the admin token."
_ONCE = "It is shown this once. It goes into `Authorization: Bearer`, or the api_key of a client."
keys = resource_group(KEYS)


def _chosen_roles(context: click.Context, option: click.Parameter, values: Sequence[str]) -> list[str]:
    """The roles of all --role, each of which may be a list with commas."""
    roles = [role.strip() for value in values for role in value.split(",")]
    if wrong := next((role for role in roles if role not in ALL_ROLES), None):
        likely = nearest(wrong, [*Role])
        raise click.BadParameter(
            f"There is no role {wrong!r}. {f'Did you mean {likely}? ' if likely else ''}"
            f"Roles are {', '.join(Role)}.",
            context,
            option,
        )
    return roles


@keys.command("create")
@click.option("--name", metavar="ID", help="The person or program that will use it.")
@click.option(
    "--agent",
    "agent_id",
    metavar="ID",
    shell_complete=completes("agent"),
    help="The agent of the mesh that it is for instead.",
)
@click.option(
    "--role",
    "--roles",
    "roles",
    multiple=True,
    default=KEY_ROLES,
    callback=_chosen_roles,
    metavar="LIST",
    help="What its holder may do: viewer, contents, submitter, operator, approver, admin. "
    f"[default: {','.join(KEY_ROLES)}]",
)
@click.option("--expires", metavar="TIME", help="After how long it is refused, like 12h or 30d.")
@click.option("--budget", metavar="USD/WINDOW", help="What may be spent: 5.00/day, or hour, month, total.")
@click.option(
    "--proxy",
    is_flag=True,
    help="A key of the LiteLLM proxy at LITELLM_BASE_URL, which the agent calls it with.",
)
@yes_option
@json_option
@mesh_options
def _create(
    target: Target,
    name: str | None,
    agent_id: str | None,
    roles: Sequence[str],
    expires: str | None,
    budget: str | None,
    proxy: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Create a key and print it on stdout, this once.

    \b
    mesh keys create --name ada --role approver
    mesh keys create --name ci --tenant acme --role submitter --expires 90d

    Calls with it count as those of --name, in --tenant (* is all tenants). With --proxy it is the proxy's,
    and this mesh uses it for the agent's calls from now on.

    The first key makes keys mandatory for every caller, and so it asks before; `mesh keys open` undoes that.
    """
    if (name is None) == (agent_id is None):
        raise click.UsageError("Name whose key it is: --name ada, or for an agent of the mesh --agent ID.")
    tenant_id = target.tenant or "default"
    target = target._replace(tenant=None)  # the mesh's administrator makes keys of all tenants

    async def make(mesh: Connection) -> Document:
        if not yes and not await mesh.client.keys_required():
            confirm(_CLOSES)
        key = await mesh.client.create_key(
            agent_id, name=name, tenant_id=tenant_id, roles=roles, expires=expires, budget=budget
        )
        return document(key)

    async def make_there(there: LiteLLMProxy) -> Document:
        from meshwright.money.keys import key_budget

        if agent_id is None:
            raise click.UsageError("A key of the proxy is an agent's: use --agent in place of --name.")
        limit = key_budget(budget, "proxy", agent_id) if budget else None
        key = await there.create_key(agent_id, tenant_id=tenant_id, budget=limit)
        agent_keys().put(tenant_id, agent_id, key=key.key, token=key.token)
        return {"key_id": key.token, "agent_id": agent_id, "tenant_id": tenant_id, "key": key.key}

    key = on_proxy(make_there) if proxy else talk(target, make, need="change", begins=True)
    if as_json:
        echo_json(key)
        return
    click.echo(key["key"])
    say(f"key {key['key_id']} of {key['agent_id']}, tenant {tenant_id}. {_ONCE}", err=True)


@keys.command("rotate")
@click.argument("key_id", metavar="ID", shell_complete=completes_ids(KEYS))
@click.option("--grace", default="1h", show_default=True, metavar="TIME", help="How long both keys work.")
@click.option("--expires", metavar="TIME", help="After how long the new one is refused, like 30d.")
@json_option
@mesh_options
def _rotate(target: Target, key_id: str, grace: str, expires: str | None, as_json: bool) -> None:
    """Create a key in another's place, and print it on stdout, this once.

    It is of the same name, tenant, roles and budget. Both keys work for the time of --grace; then the old
    one has expired. Without --expires the new key lives as long as the old one was to.
    """

    async def make(mesh: Connection) -> Document:
        key = match_id(key_id, (key.key_id for key in await mesh.client.keys()), "key")
        return document(await mesh.client.rotate_key(key, grace=grace, expires=expires))

    key = talk(target, make, need="change")
    if as_json:
        echo_json(key)
        return
    click.echo(key["key"])
    say(f"key {key['key_id']} of {key['agent_id']} replaces {key_id} within {grace}. {_ONCE}", err=True)


@keys.command("revoke")
@click.argument("key_id", metavar="ID", shell_complete=completes_ids(KEYS))
@click.option("--proxy", is_flag=True, help="Experimental: a key of the LiteLLM proxy, by its token.")
@mesh_options
def _revoke(target: Target, key_id: str, proxy: bool) -> None:
    """Revoke a key immediately. This cannot be undone.

    Callers still need a key when the last one is revoked: see `mesh keys open`.
    """

    async def end(mesh: Connection) -> str:
        key = match_id(key_id, (key.key_id for key in await mesh.client.keys()), "key")
        await mesh.client.revoke_key(key)
        return key

    async def end_there(there: LiteLLMProxy) -> str:
        await there.delete_key(key_id)
        agent_keys().forget(key_id)
        return key_id

    revoked_id = on_proxy(end_there) if proxy else talk(target, end, need="change")
    click.echo(f"key {revoked_id} is revoked")


@keys.command("open")
@yes_option
@mesh_options
def _open_mesh(target: Target, yes: bool) -> None:
    """Revoke every key, and require none until you create another.

    Callers on the mesh's own machine then need no key. With `keys.required = true` in the settings, keys stay
    mandatory.
    """

    async def open_there(mesh: Connection) -> tuple[int, bool]:
        if not yes:
            confirm(_OPENS)
        return await mesh.client.open_keys(), await mesh.client.keys_required()

    revoked, required = talk(target, open_there, need="change")
    click.echo(f"{revoked} {'key' if revoked == 1 else 'keys'} revoked")
    say(_STILL_REQUIRED if required else _NOT_REQUIRED, err=True)


def agent_keys() -> AgentKeys:
    """The proxy's keys of single agents, which the mesh of this project calls it with."""
    from meshwright.component import load_settings
    from meshwright.models.server import AgentKeys

    return AgentKeys(load_settings(Path()).data_dir)


@click.command()
@click.option("--requester", metavar="NAME", help="Of the tasks that somebody asked for.")
@click.option("--thread", metavar="ID", help="Of the tasks of a thread.")
@click.option("--task", metavar="ID", shell_complete=completes("task"), help="Of one task.")
@yes_option
@mesh_options
def erase(target: Target, requester: str | None, thread: str | None, task: str | None, yes: bool) -> None:
    """Erase the contents of tasks for good.

    Requests, messages and answers in them go, with all that they delegated. That the tasks ran,
    when, for whom and at what cost stays; the event log still verifies.
    """
    chosen = {"requested_by": requester, "thread_id": thread, "task_id": task}
    subject = {name: value for name, value in chosen.items() if value is not None}
    if len(subject) != 1:
        usage = "Name one of --requester NAME, --thread ID and --task ID"
        raise click.UsageError(usage, click.get_current_context())
    if not yes:
        [(name, value)] = subject.items()
        confirm(f"This erases the contents of all tasks with {name} {value!r}, for good.")

    async def erase_there(mesh: Connection) -> tuple[int, int]:
        return await mesh.client.erase(**subject)

    tasks, events = talk(target, erase_there, need="change")
    click.echo(f"erased the contents of {tasks:,} {'task' if tasks == 1 else 'tasks'}, of {events:,} events")


@click.group(cls=Noun)
def secrets() -> None:
    """Manage the keys that encrypt stored secrets.

    They are in secret.key of the data folder, newest first, or in the setting secrets.keys.
    """


@secrets.command("rotate")
@mesh_options
def _rotate_secrets(target: Target) -> None:
    """Make a new key and encrypt all stored secrets with it.

    Older keys stay in secret.key, for copies of the data; you may remove their lines. With the setting
    secrets.keys, put the new key first there, start the mesh again, and then run this.
    """

    async def renew(mesh: Connection) -> int:
        return await mesh.client.rotate_secrets()

    renewed = talk(target, renew, need="change")
    click.echo(
        f"{renewed} stored {'secret is' if renewed == 1 else 'secrets are'} encrypted with the newest key"
    )


@secrets.command("new-key")
def _print_key() -> None:
    """Print a new key for the setting secrets.keys."""
    from meshwright.engine.sql.encryption import new_key

    click.echo(new_key())
