"""`mesh prompts log`, `show`, `diff` and `blame`: the versions of a prompt file, as git has them."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import TYPE_CHECKING

import click

from meshwright.cli.nouns import Noun
from meshwright.cli.options import json_option, limit_option
from meshwright.cli.output import echo_json, for_terminal, show, styled
from meshwright.core.display import Column, local_time
from meshwright.core.errors import NotFound, nearest

if TYPE_CHECKING:
    from meshwright.prompts.history import PromptHistory, Version

_COLOURS = {"+": "green", "-": "red", "@": "cyan"}
_COLUMNS = (
    Column("version", "version"),
    Column("commit", "commit"),
    Column("when", "at", local_time),
    Column("author", "author", cut=2),
    Column("change", "subject", cut=1),
)


def _history(name: str) -> PromptHistory:
    """The versions of a prompt of this project. Raises NotFound, PromptError."""
    from meshwright.agents.loader import prompts_folder
    from meshwright.prompts import Prompts
    from meshwright.prompts.history import PromptHistory
    from meshwright.settings import load_settings

    folder = prompts_folder(Path.cwd(), load_settings(Path()))
    names = Prompts(folder).names()
    path = folder / f"{Path(name).name}.prompt"
    if name in names or (path.stem == name and not path.exists() and not nearest(name, names)):
        return PromptHistory(path)  # also a file that was deleted, and that git still has
    likely = nearest(name, names)
    remedy = f"did you mean {likely}? " if likely else ""
    raise NotFound(
        f"{folder} has no prompt {name!r}",
        remedy=f"{remedy}The prompt of an agent that has its text in its code has the versions of that code",
    )


def _row(version: Version) -> dict[str, str]:
    return {
        "version": version.name,
        "commit": version.revision[:12],
        "at": version.at,
        "author": version.author,
        "subject": version.subject,
    }


@click.command()
@click.argument("name")
@limit_option(20)
@json_option
def log(name: str, limit: int, as_json: bool) -> None:
    """List the versions of a prompt, newest first: what events, costs and traces name as NAME@VERSION."""
    rows = [_row(version) for version in _history(name).versions[:limit]]
    show(rows, _COLUMNS, as_json=as_json, empty="")


@click.command("show")
@click.argument("name", metavar="NAME[@VERSION]")
@json_option
def show_version(name: str, as_json: bool) -> None:
    """Print a prompt as it is now, or one of its versions, named by its digest or by a commit."""
    name, _, version_name = name.partition("@")
    history = _history(name)
    version = history.find(version_name) if version_name else history.versions[0]
    if as_json:
        echo_json({**_row(version), "digest": version.digest, "text": version.text})
    else:
        click.echo(for_terminal(version.text), nl=not version.text.endswith("\n"))


@click.command()
@click.argument("name")
@click.argument("older", required=False)
@click.argument("newer", required=False)
def diff(name: str, older: str | None, newer: str | None) -> None:
    """Show how a prompt changed: from the version before to the newest, or between those that you name."""
    history = _history(name)
    new = history.find(newer) if newer else history.versions[0]
    if older:
        old_name, old = (version := history.find(older)).name, version.text
    else:
        before = history.versions[history.versions.index(new) + 1 :]
        old_name, old = (before[0].name, before[0].text) if before else ("nothing", "")
    lines = difflib.unified_diff(
        old.splitlines(), new.text.splitlines(), f"{name}@{old_name}", f"{name}@{new.name}", lineterm=""
    )
    for line in lines:
        colour = _COLOURS.get(line[:1])
        click.echo(styled(for_terminal(line), fg=colour) if colour else for_terminal(line))


@click.command()
@click.argument("name")
def blame(name: str) -> None:
    """Show who wrote each line of a prompt, when, and in which commit."""
    click.echo(for_terminal(_history(name).blame()), nl=False)


def add_to(group: Noun) -> None:
    """Add the commands to `mesh prompts`."""
    for command in (log, show_version, diff, blame):
        group.add_command(command)
