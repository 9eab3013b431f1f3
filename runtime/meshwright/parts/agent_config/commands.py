"""`mesh config agents`: which model each agent calls."""

from __future__ import annotations

import os
import sys
from typing import Any

import click

from meshwright.console.options import Number
from meshwright.kit import (
    Connection,
    Document,
    InvalidInput,
    NotFound,
    Noun,
    Target,
    WholeNumber,
    completes,
    echo_json,
    json_option,
    mesh_options,
    resource_group,
    talk,
)
from meshwright.parts.agent_config.display import CONFIGS, render_model, render_state

_NEEDED = {"llm_provider": "--provider NAME", "llm_model": "--model NAME"}  # of a new configuration
_CLEARED = ("llm_endpoint", "llm_max_tokens")  # by an empty text, or 0


@click.group(cls=Noun)
def config() -> None:
    """Change what a mesh does while it runs."""


_configs = resource_group(CONFIGS)
config.add_command(_configs)


@_configs.command("set")
@click.argument("agent_id", metavar="AGENT", shell_complete=completes("agent"))
@click.option("--provider", "llm_provider", metavar="NAME", help="Who offers the model: openai, ollama, ...")
@click.option("--model", "llm_model", metavar="NAME", help="The model, as its provider names it.")
@click.option("--endpoint", "llm_endpoint", metavar="URL", help='Its address; "" for the usual one.')
@click.option("--key-env", metavar="VARIABLE", help="Take the key from this variable.")
@click.option("--key", "asks_key", is_flag=True, help="Ask for the key, or read it from stdin.")
@click.option("--no-key", is_flag=True, help="Delete the stored key.")
@click.option(
    "--timeout",
    "llm_timeout",
    type=Number(0, min_open=True),
    metavar="SECONDS",
    help="What one attempt may take.",
)
@click.option("--temperature", "llm_temperature", type=Number(0, 2), metavar="N", help="From 0 to 2.")
@click.option(
    "--max-tokens", "llm_max_tokens", type=WholeNumber(0), metavar="N", help="Tokens of a reply; 0: no limit."
)
@click.option("--name", metavar="TEXT", help="A name for people.")
@click.option("--description", metavar="TEXT", help="What the agent is for.")
@click.option("--default", "is_default", is_flag=True, default=None, help="Make it the tenant's default.")
@click.option("--active/--inactive", "is_active", default=None, help="Whether the configuration counts.")
@json_option
@mesh_options
def _set_config(
    target: Target,
    agent_id: str,
    key_env: str | None,
    asks_key: bool,
    no_key: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Configure an agent, or change what is given of its configuration.

    A key is never an argument, where other users and the shell's history would see it: name the variable that
    has it, or let --key ask for it.
    """
    fields: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    fields |= {name: fields[name] or None for name in _CLEARED if name in fields}
    if sum((key_env is not None, asks_key, no_key)) > 1:
        raise click.UsageError("--key-env, --key and --no-key exclude each other")
    if key_env is not None or asks_key or no_key:
        fields["llm_api_key"] = None if no_key else _key(key_env)
    if not fields:
        raise click.UsageError("nothing to change; mesh config agents set --help lists the options")

    async def change(mesh: Connection) -> tuple[Document, bool]:
        configs = mesh.client.resource(CONFIGS.name)
        try:
            changed = await configs.put(agent_id, **fields)
        except NotFound:
            if agent_id == "default":
                raise
            if needed := [option for field, option in _NEEDED.items() if field not in fields]:
                raise click.UsageError(
                    f"{agent_id} has no configuration yet: add {' and '.join(needed)}"
                ) from None
            changed = await configs.create(agent_id=agent_id, **fields)
        agent_ids = {agent.agent_id for agent in await mesh.client.agents()}
        return changed, changed["is_default"] or changed["agent_id"] in agent_ids

    changed, is_known = talk(target, change, need="change", begins=True)
    problem = changed.pop("problem", None)
    state = f" ({render_state(changed)})" if render_state(changed) else ""
    if as_json:
        echo_json(changed)
    else:
        click.echo(f"{changed['agent_id']} calls {render_model(changed)}{state}")
    _warn(changed["agent_id"], problem, is_known=is_known)


def _warn(agent_id: str, problem: str | None, *, is_known: bool) -> None:
    if not is_known:
        click.echo(f"mesh: warning: the mesh has no agent {agent_id!r} now", err=True)
    if problem:
        click.echo(f"mesh: warning: this model cannot be called: {problem}", err=True)


def _key(variable: str | None) -> str:
    if variable is None:
        key = click.prompt("Key", hide_input=True, err=True) if sys.stdin.isatty() else sys.stdin.readline()
    else:
        key = os.environ.get(variable, "")
    if not (key := key.strip()):
        where = "the input" if variable is None else f"the variable {variable}"
        raise InvalidInput(
            f"There is no key in {where}",
            remedy="Export it there, or type it with --key",
            field="llm_api_key",
        )
    return key
