"""The commands that follow from the description of a resource.

Commands that a table cannot describe are added to the group that `group_of` makes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from meshwright.cli.completion import ids_of
from meshwright.cli.connect import Connection, talk
from meshwright.cli.nouns import Noun
from meshwright.cli.options import Target, json_option, mesh_options
from meshwright.cli.output import echo_json, show
from meshwright.core.display import Document, Resource, Verb


def group_of(resource: Resource, find: Callable[[Target], list[Document]] | None = None) -> click.Group:
    """The commands of a resource: `list`, with `find` where its route does not list them, and its verbs."""

    def listed(target: Target) -> list[Document]:
        return talk(target, lambda mesh: mesh.client.items(resource.path), need=resource.need)

    group = Noun(resource.command or resource.name, help=resource.help)

    @group.command("list", help=resource.lists or resource.help)
    @json_option
    @mesh_options
    def list_all(target: Target, as_json: bool) -> None:
        rows = (find or listed)(target)
        show(rows, resource.columns, as_json=as_json, empty=resource.empty)

    for verb in resource.verbs:
        _add(group, resource, verb)
    return group


def _add(group: click.Group, resource: Resource, verb: Verb) -> None:
    @group.command(verb.name, help=verb.help)
    @click.argument("name", metavar=resource.id, shell_complete=ids_of(resource))
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
