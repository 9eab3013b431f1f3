"""Nouns of the command line: `mesh task list`, `mesh task ID` for `mesh task show ID`, and of resources."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any

import click

from meshwright.cli.completion import ids_of
from meshwright.cli.connect import Connection, talk
from meshwright.cli.options import Target, json_option, mesh_options
from meshwright.cli.output import echo_json, show
from meshwright.core.display import Document, Resource, Verb

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
