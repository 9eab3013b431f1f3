"""`mesh config agents`."""

from __future__ import annotations

import os
import sys
from typing import Any

import click

from meshwright.cli.connect import Connection, listed, talk
from meshwright.cli.options import Target, json_option, mesh_options
from meshwright.cli.output import Column, Document, document, echo_json, local_time, show
from meshwright.core.errors import InvalidInput


def _model(config: Document) -> str:
    return f"{config['llm_provider']}/{config['llm_model']}"


def _state(config: Document) -> str:
    marks = ["default"] * config["is_default"] + ["inactive"] * (not config["is_active"])
    return ", ".join(marks)


def _yes_or_no(value: bool) -> str:
    return "yes" if value else "no"


def _changed(config: Document) -> str:
    return local_time(config["updated_at"]) or "never"


_CLEARED = ("llm_endpoint", "llm_max_tokens")  # by an empty text, or 0
_COLUMNS = (
    Column("agent", "agent_id"),
    Column("model", write=_model),
    Column("endpoint", "llm_endpoint", cut=2),
    Column("key", "has_api_key", _yes_or_no),
    Column("state", write=_state),
    Column("changed", write=_changed, cut=1),
)


@click.group()
def config() -> None:
    """Change what a mesh does while it runs."""


@config.group()
def agents() -> None:
    """Configure which model each agent calls.

    An active configuration decides the agent's next call, on every worker, without a restart. `default`
    stands for the tenant's default agent, which counts for agents without a configuration of their own.
    """


@agents.command("list")
@json_option
@mesh_options
def list_configs(target: Target, as_json: bool) -> None:
    """List the configurations, without keys."""
    found = listed(target, lambda client: client.agent_configs(), need="state")
    empty = "no agent is configured; mesh config agents set AGENT --provider NAME --model NAME does it"
    show(found, _COLUMNS, as_json=as_json, empty=empty)


@agents.command("show")
@click.argument("agent_id", metavar="AGENT")
@mesh_options
def show_config(target: Target, agent_id: str) -> None:
    """Show one configuration as JSON, without its key."""

    async def ask(mesh: Connection) -> Document:
        return document(await mesh.client.agent_config(agent_id))

    found = talk(target, ask, need="state")
    del found["problem"]
    echo_json(found)


@agents.command("set")
@click.argument("agent_id", metavar="AGENT")
@click.option("--provider", "llm_provider", metavar="NAME", help="Who offers the model: openai, ollama, ...")
@click.option("--model", "llm_model", metavar="NAME", help="The model, as its provider names it.")
@click.option("--endpoint", "llm_endpoint", metavar="URL", help='Its address; "" for the usual one.')
@click.option("--key-env", metavar="VARIABLE", help="Take the key from this variable.")
@click.option("--key", "asks_key", is_flag=True, help="Ask for the key, or read it from stdin.")
@click.option("--no-key", is_flag=True, help="Delete the stored key.")
@click.option("--timeout", "llm_timeout", type=float, metavar="SECONDS", help="What one attempt may take.")
@click.option("--temperature", "llm_temperature", type=float, metavar="N", help="From 0 to 2.")
@click.option("--max-tokens", "llm_max_tokens", type=int, metavar="N", help="Tokens of a reply; 0: no limit.")
@click.option("--name", metavar="TEXT", help="A name for people.")
@click.option("--description", metavar="TEXT", help="What the agent is for.")
@click.option("--default", "is_default", is_flag=True, default=None, help="Make it the tenant's default.")
@click.option("--active/--inactive", "is_active", default=None, help="Whether the configuration counts.")
@json_option
@mesh_options
def set_config(
    target: Target,
    agent_id: str,
    key_env: str | None,
    asks_key: bool,
    no_key: bool,
    as_json: bool,
    **given: Any,
) -> None:
    """Configure an agent, or change what is given of its configuration.

    A key is never an argument, where other users and the shell's history would see it: name the variable that
    has it, or let --key ask for it.
    """
    fields: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    fields |= {name: fields[name] or None for name in _CLEARED if name in fields}
    if sum((key_env is not None, asks_key, no_key)) > 1:
        raise click.UsageError("--key-env, --key and --no-key exclude each other")
    if key_env is not None or asks_key or no_key:
        fields["llm_api_key"] = None if no_key else _key(key_env)
    if not fields:
        raise click.UsageError("nothing to change; mesh config agents set --help lists the options")

    async def change(mesh: Connection) -> tuple[Document, bool]:
        changed = await mesh.client.configure_agent(agent_id, **fields)
        known = {agent.agent_id for agent in await mesh.client.agents()}
        return document(changed), changed.is_default or changed.agent_id in known

    changed, is_known = talk(target, change, need="change")
    problem = changed.pop("problem")
    state = f" ({_state(changed)})" if _state(changed) else ""
    if as_json:
        echo_json(changed)
    else:
        click.echo(f"{changed['agent_id']} calls {_model(changed)}{state}")
    _warn(changed["agent_id"], problem, is_known=is_known)


def _warn(agent_id: str, problem: str | None, *, is_known: bool) -> None:
    if not is_known:
        click.echo(f"mesh: warning: the mesh has no agent {agent_id!r} now", err=True)
    if problem:
        click.echo(f"mesh: warning: this model cannot be called: {problem}", err=True)


@agents.command("delete")
@click.argument("agent_id", metavar="AGENT")
@mesh_options
def delete_config(target: Target, agent_id: str) -> None:
    """Delete a configuration with its key; the agent calls what its prompt names again."""

    async def delete(mesh: Connection) -> str:
        return (await mesh.client.delete_agent_config(agent_id)).agent_id

    click.echo(f"the configuration of {talk(target, delete, need='change')} is deleted")


def _key(variable: str | None) -> str:
    if variable is None:
        key = click.prompt("Key", hide_input=True, err=True) if sys.stdin.isatty() else sys.stdin.readline()
    else:
        key = os.environ.get(variable, "")
    if not (key := key.strip()):
        where = "the input" if variable is None else f"the variable {variable}"
        raise InvalidInput(f"There is no key in {where}", field="llm_api_key")
    return key
