"""An option that several commands share means the same on each: its type, its letter, its words."""

from collections.abc import Iterator

import click
import pytest

from meshwright.cli.app import COMMANDS, mesh
from meshwright.console.options import WholeNumber

SHARED = {
    "--json": ("flag", "as_json", "Print JSON."),
    "--follow": ("flag", "follow", "Continue with what is new, until Ctrl-C."),
    "--since": ("TIME", "since", ""),
    "--limit": ("number", "limit", ""),
    "--tenant": ("ID", "tenant", "For this tenant, as an administrator of all tenants may."),
    "--yes": ("flag", "yes", "Do not ask"),
    "--quiet": ("flag", "quiet", "Do not show the progress of the task."),
    "--url": ("URL", "url", "A running mesh, such as "),
    "--data": ("DIR", "data", "The folder of the mesh's data"),
}
LETTERS = {"-f": "--follow", "-h": "--help", "-q": "--quiet", "-y": "--yes", "-V": "--version"}


def commands(group: click.Group, path: str = "mesh") -> Iterator[tuple[str, click.Command]]:
    """Each command of the tree with its words."""
    context = click.Context(group, info_name=path)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None, name
        yield f"{path} {name}", command
        if isinstance(command, click.Group):
            yield from commands(command, f"{path} {name}")


EVERY = dict(commands(mesh))


def _kind(option: click.Option) -> str:
    is_number = isinstance(option.type, WholeNumber)
    return "flag" if option.is_flag else "number" if is_number else option.metavar or option.type.name


@pytest.mark.parametrize("name", SHARED)
def test_a_shared_option_means_one_thing_on_every_command(name: str) -> None:
    kind, field, says = SHARED[name]
    having = [
        (path, param)
        for path, command in EVERY.items()
        for param in command.params
        if isinstance(param, click.Option) and name in param.opts
    ]
    assert len(having) > 1
    for path, option in having:
        assert (_kind(option), option.name) == (kind, field), path
        assert (option.help or "").startswith(says), path


def test_a_letter_stands_for_the_same_option_everywhere() -> None:
    for path, command in EVERY.items():
        for param in command.params:
            for letter in (name for name in param.opts if len(name) == 2 and name.startswith("-")):
                assert LETTERS.get(letter) in param.opts, path


def test_a_short_form_is_the_command_of_its_long_form() -> None:
    shorts = {
        f"mesh {name}": f"mesh {entry.short_for}" for name, entry in COMMANDS.items() if entry.short_for
    }
    assert shorts["mesh tasks"] == "mesh task list"
    for short, long in shorts.items():
        both = EVERY[short], EVERY[long]
        same = both[0] is both[1]
        verbs = [getattr(command, "commands", {}) for command in both]
        assert same or both[1] in verbs[0].values() or both[0] in verbs[1].values(), (short, long)


def test_what_lists_can_print_json() -> None:
    """A list that a person can read, a program can; what `show` prints may be JSON without a flag."""
    lists = [path for path in EVERY if path.endswith((" list", " show", " status"))]
    without = [path for path in lists if not any("--json" in param.opts for param in EVERY[path].params)]
    assert without == ["mesh bridge status", "mesh config agents show", "mesh experiments show"]
