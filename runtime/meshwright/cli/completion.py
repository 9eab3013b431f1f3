"""Completion in a shell of agents, capabilities and ids; `mesh completion` prints the script for it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click
from click.shell_completion import CompletionItem, get_completion_class

from meshwright.cli.connect import in_process, running_mesh
from meshwright.cli.output import document
from meshwright.cli.project import declared_agents
from meshwright.core.display import Document, Resource, join, short

_SECONDS = 3.0
_SHELLS = ["bash", "zsh", "fish"]


class _Kind(NamedTuple):
    """Things with names: the path that lists them, the field of the name, and what is said of each."""

    path: str
    field: str
    about: Callable[[Document], str]


def _of_agent(agent: Document) -> str:
    return (agent.get("metadata") or {}).get("description") or agent.get("status", "")


def _of_task(task: Document) -> str:
    return join([task["status"], task["agent_id"] or task["capability"], short(task["reason"] or "")])


def _of_question(question: Document) -> str:
    return short(question["question"])


def _of_costs(costs: Document) -> str:
    return f"{costs['calls']:,} call{'' if costs['calls'] == 1 else 's'}"


def _of_item(item: Document) -> str:
    return item.get("status") or ""


_KINDS = {
    "agent": _Kind("/agents", "agent_id", _of_agent),
    "capability": _Kind("/agents", "", _of_agent),
    "task": _Kind("/tasks", "task_id", _of_task),
    "question": _Kind("/inbox", "id", _of_question),
    "prompt": _Kind("/costs?by=prompt", "key", _of_costs),
}


def named(kind: str, field: str = "") -> Callable[..., list[CompletionItem[Any]]]:
    """Completion of an `agent`, `capability`, `task` or `question`, or of a field in the list at a path."""
    form = _KINDS.get(kind) or _Kind(kind, field, _of_item)

    def complete(
        ctx: click.Context, parameter: click.Parameter, incomplete: str
    ) -> list[CompletionItem[Any]]:
        try:
            items = asyncio.run(asyncio.wait_for(_items(ctx, form), _SECONDS))
        except Exception:  # noqa: BLE001 - completion has no place for an error
            return []
        helps = dict(_names(form, items))
        begin = [name for name in helps if name.startswith(incomplete)]
        matches = begin or [name for name in helps if name.endswith(incomplete)]  # as every command takes it
        return [CompletionItem(name, help=helps[name]) for name in matches]

    return complete


def ids_of(resource: Resource) -> Callable[..., list[CompletionItem[Any]]]:
    """Completion of the ids of a resource, which are in its first column."""
    return named(resource.path, resource.columns[0].field)


def _names(kind: _Kind, items: Sequence[Document]) -> Iterator[tuple[str, str]]:
    for item in items:
        if item.get("kind") == "system":
            continue
        if kind.field:
            yield from [(item[kind.field], kind.about(item))] if item[kind.field] else ()
        else:
            yield from ((capability["name"], item["agent_id"]) for capability in item["capabilities"])


async def _items(ctx: click.Context, kind: _Kind) -> list[Document]:
    from meshwright.settings import load_settings

    tenant = ctx.params.get("tenant")
    url = ctx.params.get("url") or os.environ.get("MESH_URL")  # a noun has no options of its own
    chosen = url or load_settings(Path(), data_dir=ctx.params.get("data"))
    async with running_mesh(chosen, tenant=tenant) as running:
        if running is not None:
            return await running.client.items(kind.path)
    assert not isinstance(chosen, str)
    if kind.path == _KINDS["agent"].path:
        return [document(agent) for agent in declared_agents(chosen).agents]
    async with in_process(chosen, "state", tenant=tenant) as own:
        return await own.client.items(kind.path)


@click.command()
@click.argument("shell", metavar="SHELL", type=click.Choice(_SHELLS))
def completion(shell: str) -> None:
    """Print the script that completes commands, agents and ids in a shell.

    \b
    bash:  eval "$(mesh completion bash)"        in ~/.bashrc
    zsh:   eval "$(mesh completion zsh)"         in ~/.zshrc
    fish:  mesh completion fish | source         in ~/.config/fish/config.fish
    """
    shell_class = get_completion_class(shell)
    root = click.get_current_context().find_root()
    assert shell_class is not None
    click.echo(shell_class(root.command, {}, "mesh", "_MESH_COMPLETE").source())
