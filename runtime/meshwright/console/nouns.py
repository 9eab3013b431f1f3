"""Nouns of the command line: `mesh task list`, `mesh task ID` for `mesh task show ID`, and of resources."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import click
from click.shell_completion import CompletionItem, get_completion_class

from meshwright.console.connect import Connection, in_process, running_mesh, talk
from meshwright.console.options import Target, json_option, mesh_options
from meshwright.console.output import document, echo_json, show
from meshwright.console.project import declared_agents
from meshwright.core.display import Document, Resource, Verb, join, short

_HELP = ("-h", "--help")


class Noun(click.Group):
    """A group whose commands are the verbs of one noun, in the order in which they were added.

    Without a verb it is the verb `bare`, or its help if it has no such verb; with an id in the place of the
    verb it is `show`.
    """

    def __init__(self, *args: Any, bare: str = "list", **attributes: Any) -> None:
        super().__init__(*args, **attributes)
        self.no_args_is_help = False
        self._bare = bare

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The verbs in their order."""
        return list(self.commands)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Add the verb where none is given. Raises UsageError for one that is not there."""
        is_verb = bool(args) and args[0] in (*self.commands, *_HELP)
        if not ctx.resilient_parsing and not is_verb:
            args = [self._verb(ctx, args), *args]
        elif args and not is_verb:  # in completion nothing is refused
            with suppress(click.UsageError):
                args = [self._verb(ctx, args), *args]
        return super().parse_args(ctx, args)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[Any]:
        """The verbs that begin so, and the ids that `show` takes."""
        items = super().shell_complete(ctx, incomplete)
        if "show" not in self.commands or incomplete.startswith("-"):
            return items
        words = (param for param in self.commands["show"].params if isinstance(param, click.Argument))
        return [*items, *(item for param in words for item in param.shell_complete(ctx, incomplete))]

    def _verb(self, ctx: click.Context, args: Sequence[str]) -> str:
        bare = self._bare if self._bare in self.commands else None
        words = self._words(ctx, bare, args)
        if words and words[0] in self.commands:
            raise click.UsageError(f"Give its options after {ctx.command_path} {words[0]}", ctx)
        if words and ("show" not in self.commands or _is_typo(words[0], self.commands)):
            raise click.UsageError(unknown(words[0], self.commands, ctx.command_path), ctx)
        if words:
            return "show"
        if bare is None:
            if args:
                raise click.UsageError(f"{ctx.command_path} takes a command: {', '.join(self.commands)}", ctx)
            click.echo(ctx.get_help())
            ctx.exit()
        return bare

    def _words(self, ctx: click.Context, bare: str | None, args: Sequence[str]) -> list[str]:
        """The arguments that are neither options nor their values."""
        if not args or not args[0].startswith("-"):
            return list(args[:1])
        if bare is None:
            return []
        options: list[click.Parameter] = [
            param for param in self.commands[bare].params if isinstance(param, click.Option)
        ]
        quiet = click.Context(click.Command(bare, params=options), ignore_unknown_options=True)
        quiet.resilient_parsing = True
        _, words, _ = quiet.command.make_parser(quiet).parse_args(list(args))
        plain = [word for word in words if not word.startswith("-")]
        has_strangers = len(plain) < len(words)  # which the verb refuses: what follows may be their values
        return [] if has_strangers and plain and plain[0] not in self.commands else plain


def _is_typo(word: str, verbs: Iterable[str]) -> bool:
    """Whether a word is a verb with a slip rather than an id, which has digits, capitals or dashes."""
    from meshwright.core.errors import nearest

    return word.isalpha() and word.islower() and nearest(word, verbs) is not None


def unknown(word: str, names: Iterable[str], path: str) -> str:
    """The sentence for a command that is not there, with the one that was probably meant."""
    from meshwright.core.errors import nearest

    likely = nearest(word, names)
    hint = f"did you mean: {path} {likely}" if likely else f"{path} --help lists them"
    return f"there is no command {word!r}{'' if path == 'mesh' else f' of {path}'}; {hint}"


def resource_group(resource: Resource, find: Callable[[Target], list[Document]] | None = None) -> click.Group:
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
    @click.argument("name", metavar=resource.id, shell_complete=completes_ids(resource))
    @mesh_options
    def change(target: Target, name: str) -> int:
        async def request(mesh: Connection) -> Any:
            return await mesh.client.call(verb.method, f"{resource.item_path(name)}{verb.path}")

        answer = talk(target, request, need="state" if verb.method == "GET" else "change") or {}
        if verb.says is None:
            echo_json({field: value for field, value in answer.items() if field not in verb.hides})
            return 0
        succeeded = verb.succeeded(answer)
        click.echo(verb.says({"id": name, **answer}), err=not succeeded)
        return 0 if succeeded else 1


_SECONDS = 3.0
_SHELLS = ["bash", "zsh", "fish"]


class _Kind(NamedTuple):
    """Things with names: the path that lists them, the field of the name, and what is said of each."""

    path: str
    field: str
    about: Callable[[Document], str]


def _describe_agent(agent: Document) -> str:
    return (agent.get("metadata") or {}).get("description") or agent.get("status", "")


def _describe_task(task: Document) -> str:
    return join([task["status"], task["agent_id"] or task["capability"], short(task["reason"] or "")])


def _describe_question(question: Document) -> str:
    return short(question["question"])


def _describe_costs(costs: Document) -> str:
    return f"{costs['calls']:,} call{'' if costs['calls'] == 1 else 's'}"


def _describe_item(item: Document) -> str:
    return item.get("status") or ""


_KINDS = {
    "agent": _Kind("/agents", "agent_id", _describe_agent),
    "capability": _Kind("/agents", "", _describe_agent),
    "task": _Kind("/tasks", "task_id", _describe_task),
    "question": _Kind("/inbox", "id", _describe_question),
    "prompt": _Kind("/costs?by=prompt", "key", _describe_costs),
}


def completes(kind: str, field: str = "") -> Callable[..., list[CompletionItem[Any]]]:
    """Completion of an `agent`, `capability`, `task` or `question`, or of a field in the list at a path."""
    form = _KINDS.get(kind) or _Kind(kind, field, _describe_item)

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


def completes_ids(resource: Resource) -> Callable[..., list[CompletionItem[Any]]]:
    """Completion of the ids of a resource, which are in its first column."""
    return completes(resource.path, resource.columns[0].field)


def _names(kind: _Kind, items: Sequence[Document]) -> Iterator[tuple[str, str]]:
    for item in items:
        if item.get("kind") == "system":
            continue
        if kind.field:
            yield from [(item[kind.field], kind.about(item))] if item[kind.field] else ()
        else:
            yield from ((capability["name"], item["agent_id"]) for capability in item["capabilities"])


async def _items(ctx: click.Context, kind: _Kind) -> list[Document]:
    from meshwright.core.settings import load_settings

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
    script = shell_class(root.command, {}, "mesh", "_MESH_COMPLETE").source()
    click.echo(script.replace('(string split ","', '(string split --max 1 ","'))  # fish: help has commas too
