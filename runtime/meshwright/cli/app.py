"""The commands of `mesh`, each loaded when it is used, and how they fail: in one line, with no traceback.

Exit status: 0 done, 1 failed, 2 wrong use, 130 interrupted.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import click

from meshwright import __version__
from meshwright.cli.options import DATA_KEY, DEFAULT_DATA
from meshwright.errors import MeshError, in_one_line

FAILED, WRONG_USE, INTERRUPTED = 1, 2, 130


class Entry(NamedTuple):
    """Where a command is, and what `mesh --help` says of it without loading it."""

    module: str
    help: str


COMMANDS = {
    "demo": Entry("demo", "Show agents at work; needs no key and no network."),
    "up": Entry("up", "Run a mesh and its HTTP API until Ctrl-C."),
    "worker": Entry("up", "Run one worker, on a PostgreSQL database or beside a Dapr sidecar."),
    "ask": Entry("ask", "Ask an agent, follow its progress, print the answer."),
    "submit": Entry("ask", "Submit a task; the best agent for it gets it."),
    "tasks": Entry("tasks", "List tasks, newest first."),
    "task": Entry("tasks", "Show one task with its attempts and outcome."),
    "answer": Entry("tasks", "Answer what a task waits for."),
    "cancel": Entry("tasks", "Cancel a task."),
    "events": Entry("events", "Show events, oldest first."),
    "costs": Entry("costs", "Sum up what model calls cost."),
    "budgets": Entry("costs", "Show budgets and spend."),
    "agents": Entry("agents", "List agents with their capabilities and status."),
    "models": Entry("models", "Show groups, deployments, tags and prices; say where a call goes."),
    "keys": Entry("keys", "Manage virtual API keys."),
    "doctor": Entry("doctor", "Check the project and what its components depend on."),
    "prompts": Entry("agents", "Check the prompt files."),
}


class Unexpected(click.ClickException):
    """A fault in Meshwright itself, told in one line; its traceback is kept elsewhere."""


def _commands_of_packages() -> dict[str, click.Command]:
    """The commands that installed packages bring; where one has the name of ours, ours counts."""
    from meshwright.plugins import COMPONENTS, installed

    commands = [command for plugin in installed(COMPONENTS) for command in plugin.load().commands()]
    for command in commands:
        if command.name in COMMANDS:
            click.echo(f"mesh: warning: a package brings a command {command.name}, which is ours", err=True)
    return {str(command.name): command for command in commands if command.name not in COMMANDS}


class _LazyGroup(click.Group):
    """Knows its commands by name, and imports one only to run it or to show its own help."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names in the order of the help."""
        return [*COMMANDS, *_commands_of_packages()]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command of that name, if there is one."""
        if cmd_name not in COMMANDS:
            return _commands_of_packages().get(cmd_name)
        return getattr(import_module(f"meshwright.cli.{COMMANDS[cmd_name].module}"), cmd_name)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command, or say which one was probably meant."""
        name = args[0]
        known = COMMANDS if name in COMMANDS or name.startswith("-") else self.list_commands(ctx)
        if name not in known and not ctx.resilient_parsing and not name.startswith("-"):
            from meshwright.suggestions import nearest

            likely = nearest(name, known)
            hint = f"did you mean: mesh {likely}" if likely else "mesh --help lists them"
            raise click.UsageError(f"there is no command {name!r}; {hint}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands from the table."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.help) for name, entry in COMMANDS.items()])
        if brought := _commands_of_packages():
            with formatter.section("Commands of installed packages"):
                formatter.write_dl(
                    [(name, command.get_short_help_str(80)) for name, command in brought.items()]
                )

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; what nobody foresaw becomes one line and a kept traceback."""
        try:
            return super().invoke(ctx)
        except (MeshError, click.ClickException, click.Abort, click.exceptions.Exit, BrokenPipeError):
            raise
        except ExceptionGroup as group:
            raise _deliberate(group) or unexpected(group, ctx) from group
        except Exception as error:  # whatever it is: no traceback reaches a person, it is kept and named
            raise unexpected(error, ctx) from error


@click.group(
    cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(__version__, prog_name="mesh", message="%(prog)s %(version)s")
def mesh() -> None:
    """A mesh of AI agents: tasks that, once accepted, are never lost.

    Start with `mesh demo`, or `mesh ask researcher-agent "How is the score
    of an agent
    computed?"`.
    """
    from meshwright.cli.reports import log_to_stderr

    _enter_project()
    log_to_stderr(_data_folder())


def _data_folder() -> Path:
    """The folder of the mesh's data where no option names one, as far as that is known without settings."""
    return Path(os.environ.get("MESH_DATA_DIR", DEFAULT_DATA))


def _enter_project() -> None:
    """Work in the nearest folder above that is a project, where the working directory is none.

    One of another user is passed over: its agents would run as this one.
    """
    here = Path.cwd()
    for folder in (here, *here.parents):
        if _is_project(folder) and folder.stat().st_uid in (os.geteuid(), here.stat().st_uid):
            if folder != here:
                click.echo(f"mesh: project {folder}", err=True)
                os.chdir(folder)
            return


def _is_project(folder: Path) -> bool:
    return (folder / "mesh.toml").is_file() or any((folder / "actors").glob("*.py"))


def run(arguments: Sequence[str] | None = None) -> int:
    """Run `mesh` and return its exit status. Errors are one line on stderr."""
    given = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    try:
        result = mesh.main(given, prog_name="mesh", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except click.UsageError as error:
        complain(_usage_line(error))
        return WRONG_USE
    except MeshError as error:
        complain(in_one_line(error.message, error.remedy))
        return FAILED
    except click.ClickException as error:
        complain(error.format_message())
        return FAILED
    except click.Abort:
        return INTERRUPTED


def complain(message: str) -> None:
    """Write one line to stderr, whatever the message holds."""
    line = " ".join("".join(character if character.isprintable() else " " for character in message).split())
    click.echo(f"mesh: {line}", err=True)


def _usage_line(error: click.UsageError) -> str:
    """What was wrong with the call, and what to type."""
    message = error.format_message().rstrip(".")
    if error.ctx is None or isinstance(error.ctx.command, _LazyGroup):
        return message
    if message.startswith("Got unexpected extra argument") and error.ctx.info_name in EXAMPLES:
        example = f"{error.ctx.command_path} {EXAMPLES[error.ctx.info_name]}"
        return f"{message}; put the text in quotes, such as: {example}"
    pieces = [error.ctx.command_path, *error.ctx.command.collect_usage_pieces(error.ctx)]
    return f"{message}; type: {' '.join(pieces)}"


EXAMPLES = {
    "ask": 'simple-agent "What is a turn?"',
    "submit": 'general-query "What is a turn?"',
    "answer": 'ID KEY "yes, it did"',
}
"""Commands that take a text, and how they are called."""


def _deliberate(group: ExceptionGroup[Exception]) -> MeshError | None:
    """The error that a group of errors was raised for, if it was raised on purpose."""
    meant, _ = group.split(MeshError)
    while isinstance(meant, ExceptionGroup):
        meant = meant.exceptions[0]
    return meant if isinstance(meant, MeshError) else None


def unexpected(error: Exception, ctx: click.Context) -> Unexpected:
    """Keep the traceback of an error that nobody foresaw, and say where it is."""
    from meshwright.cli.reports import keep_traceback

    where = keep_traceback(error, ctx.meta.get(DATA_KEY) or _data_folder())
    return Unexpected(f"unexpected {type(error).__name__}: {error} ({where})")
