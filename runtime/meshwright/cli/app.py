"""The commands of `mesh`, each loaded when it is used, and how they fail: in one line, with no traceback.

Exit status: 0 done, 1 failed, 2 wrong use, 130 interrupted.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from meshwright.console.options import DATA_KEY, DEFAULT_DATA
from meshwright.core import __version__
from meshwright.core.errors import MeshError, in_one_line
from meshwright.core.part import Part
from meshwright.core.parts import installed_parts, ours

if TYPE_CHECKING:
    from meshwright.agents.agent import Agent

_FAILED, _WRONG_USE, _INTERRUPTED = 1, 2, 130
_UNAUTHENTICATED = 401


class _Command(NamedTuple):
    """The module of a command, its line in `mesh --help`, which loads none, its heading and its long form."""

    module: str
    help: str
    heading: str = "Mesh"
    short_for: str = ""


_START, _WORK, _MESH, _ADMINISTRATION = _HEADINGS = ("Start", "Work", "Mesh", "Administration")
_OWN = {
    "demo": _Command("cli.demo", "Show agents fix a failing test; needs no key and no network.", _START),
    "init": _Command("cli.init", "Make a project with an agent, its tool, prompt and test.", _START),
    "up": _Command("cli.up", "Run a mesh and its HTTP API until Ctrl-C.", _START),
    "ask": _Command("cli.tasks", "Ask an agent, follow its progress, print the answer.", _START),
    "chat": _Command("cli.chat", "Talk with an agent: answers, approvals and files in one thread.", _START),
    "status": _Command(
        "cli.status", "Show what is open, what waits, which models are away, and figures of agents.", _START
    ),
    "watch": _Command(
        "cli.status", "Show a live screen of status, agents, open tasks and events, until Ctrl-C.", _START
    ),
    "task": _Command("cli.batches", "List tasks, show one with its attempts and outcome, cancel one.", _WORK),
    "submit": _Command("cli.tasks", "Submit a task, and print its id.", _WORK),
    "retry": _Command(
        "cli.batches", "Work again on tasks that failed, timed out or were cancelled.", _WORK, "task retry"
    ),
    "dead-letters": _Command(
        "cli.batches",
        "List the tasks that failed or timed out, by agent and cause, and work on them again.",
        _WORK,
        "task dead-letters",
    ),
    "inbox": _Command("cli.answers", "List what waits for a person, show one, answer it.", _WORK),
    "events": _Command("cli.status", "Show events, oldest first.", _WORK),
    "agents": _Command("agents.commands", "List agents with their capabilities and status."),
    "worker": _Command("cli.up", "Run one worker, on a PostgreSQL database or beside a Dapr sidecar."),
    "check": _Command("cli.checks", "Check the project, its prompts, its agents' code.", _ADMINISTRATION),
    "mqtt": _Command("cli.checks", "Print the rights of clients for the MQTT broker.", _ADMINISTRATION),
    "bridge": _Command(
        "edges.bridge.commands", "Report what Claude Code does to SQLite and MQTT.", _ADMINISTRATION
    ),
    "completion": _Command(
        "console.nouns",
        "Print the script that completes commands, agents and ids in a shell.",
        _ADMINISTRATION,
    ),
    "tasks": _Command("cli.tasks", "List tasks, newest first.", _WORK, "task list"),
    "cancel": _Command("cli.batches", "Cancel tasks.", _WORK, "task cancel"),
    "approve": _Command("cli.answers", "Approve what tasks wait for.", _WORK, "inbox approve"),
    "deny": _Command("cli.answers", "Deny what tasks ask approval for.", _WORK, "inbox deny"),
    "answer": _Command("cli.answers", "Answer what tasks wait for.", _WORK, "inbox answer"),
    "doctor": _Command(
        "cli.checks", "Check the project and what its components depend on.", _MESH, "check project"
    ),
    "prompts": _Command(
        "agents.commands", "Check prompt files, import those of other tools, show versions in git."
    ),
}
COMMANDS = _OWN | {
    name: _Command(
        f"{part.package.removeprefix('meshwright.')}.commands",
        text,
        part.heading,
        part.short_for.get(name, ""),
    )
    for part in ours()
    for name, text in part.commands.items()
    if " " not in name  # one of another part's command, as `mcp serve`
}
_COMPLETING = "_MESH_COMPLETE"
"""The variable by which a shell asks for completions."""
_WIDEST = max(map(len, COMMANDS))
_ALIASES = {"help": "--help", "version": "--version"}
"""Words that other programs take for these options of `mesh`."""

_ELSEWHERE = {"logs": "events --task ID", "describe": "task ID", "top": "watch"}
"""Commands of other programs, by the name that they have there."""


class _UnexpectedError(click.ClickException):
    """A fault in Meshwright itself, reported in one line; its traceback is kept elsewhere."""


def _commands_of_packages() -> dict[str, Part]:
    """The parts of installed packages by their commands; where one has the name of ours, ours counts."""
    parts = {name: part for part in installed_parts() for name in part.commands}
    for name in parts.keys() & COMMANDS.keys():
        click.echo(f"mesh: warning: a package brings a command {name}, which is ours", err=True)
    return {name: part for name, part in parts.items() if name not in COMMANDS}


def _find_command(part: Part, name: str) -> click.Command:
    """The function of the name in `commands.py` of a part, else the commands of its resource."""
    function = name.replace("-", "_").replace(" ", "_")
    if find_spec(f"{part.package}.commands") is not None:
        commands = import_module(f"{part.package}.commands")
        if hasattr(commands, function):
            return getattr(commands, function)
    from meshwright.console.nouns import resource_group

    resources = part.load(part.resources)
    return resource_group(
        next(resource for resource in resources if name in (resource.command, resource.name))
    )


class _LazyGroup(click.Group):
    """Knows its commands by name, and imports one only to run it or to show its own help."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names in the order of the help."""
        return [*COMMANDS, *_commands_of_packages()]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command of that name, if there is one."""
        if cmd_name in COMMANDS:
            command = getattr(
                import_module(f"meshwright.{COMMANDS[cmd_name].module}"), cmd_name.replace("-", "_")
            )
            for part in ours():
                for name in part.commands:
                    if name.startswith(f"{cmd_name} ") and isinstance(command, click.Group):
                        command.add_command(_find_command(part, name))
            return command
        part = _commands_of_packages().get(cmd_name)
        return _find_command(part, cmd_name) if part else None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command, or say which one was probably meant."""
        name = args[0]
        names = COMMANDS if name in COMMANDS or name.startswith("-") else self.list_commands(ctx)
        if name not in names and not ctx.resilient_parsing and not name.startswith("-"):
            from meshwright.console.nouns import unknown

            if name in _ELSEWHERE:
                hint = f"did you mean: mesh {_ELSEWHERE[name]}"
                raise click.UsageError(f"there is no command {name!r}; {hint}")
            raise click.UsageError(unknown(name, names, "mesh"))
        return super().resolve_command(ctx, args)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[Any]:
        """The names that begin so, from the table."""
        if incomplete.startswith("-"):
            return super().shell_complete(ctx, incomplete)
        from click.shell_completion import CompletionItem

        helps = {name: entry.help for name, entry in COMMANDS.items()}
        helps |= {name: part.commands[name] for name, part in _commands_of_packages().items()}
        return [
            CompletionItem(name, help=text) for name, text in helps.items() if name.startswith(incomplete)
        ]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands from the table."""
        for heading in _HEADINGS:
            with formatter.section(heading):
                listed = [
                    (name, entry.help)
                    for name, entry in COMMANDS.items()
                    if entry.heading == heading and not entry.short_for
                ]
                formatter.write_dl(listed, col_spacing=_WIDEST + 2 - max(len(name) for name, _ in listed))
        with formatter.section("Short forms"):
            formatter.write_dl(
                [(name, f"mesh {entry.short_for}") for name, entry in COMMANDS.items() if entry.short_for]
            )
        if parts := _commands_of_packages():
            with formatter.section("Commands of installed packages"):
                formatter.write_dl([(name, part.commands[name]) for name, part in parts.items()])

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; an unexpected error becomes one line and a stored traceback."""
        try:
            return super().invoke(ctx)
        except (MeshError, click.ClickException, click.Abort, click.exceptions.Exit, BrokenPipeError):
            raise
        except ExceptionGroup as group:
            raise _deliberate(group) or _unexpected(group, ctx) from group
        except Exception as error:  # whatever it is: no traceback reaches a person, it is kept and named
            if _is_of_output(error):
                raise
            raise _unexpected(error, ctx) from error


@click.group(
    cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(__version__, "-V", "--version", prog_name="mesh", message="%(prog)s %(version)s")
def mesh() -> None:
    """A mesh of AI agents: tasks that, once accepted, are never lost.

    Start with `mesh demo`, a project of your own with `mesh init`, or
    `mesh ask architect-agent "How is the score
    of an agent
    computed?"`.
    """
    from meshwright.console.process import log_commands  # the help does without

    context = click.get_current_context()
    if context.invoked_subcommand != "init" and context.obj is None:  # these are of the present folder
        _enter_project()
    log_commands(_data_folder())


def _data_folder() -> Path:
    """The folder of the mesh's data where no option names one, as far as that is known without settings."""
    return Path(os.environ.get("MESH_DATA_DIR", DEFAULT_DATA))


def _enter_project(*, quiet: bool = False) -> None:
    """Work in the nearest folder above that is a project, where the working directory is none.

    One of another user is passed over: its agents would run as this one. The data of a mesh, such as that of
    `python agent.py`, make a project of the working directory.
    """
    here = Path.cwd()
    if (here / DEFAULT_DATA).is_dir():
        return
    for folder in (here, *here.parents):
        if _is_project(folder) and folder.stat().st_uid in (os.geteuid(), here.stat().st_uid):
            if folder != here:
                if not quiet:
                    click.echo(f"mesh: project {folder}", err=True)
                os.chdir(folder)
            return


def _is_project(folder: Path) -> bool:
    return (folder / "mesh.toml").is_file() or any((folder / "actors").glob("*.py"))


def run(arguments: Sequence[str] | None = None, agents: Sequence[type[Agent]] | None = None) -> int:
    """Run `mesh`, with these agents if there are any, and return its exit status. Errors are one line."""
    words = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if _COMPLETING in os.environ:
        _enter_project(quiet=True)
    if words[0] in _ALIASES:
        words = [*words[1:], _ALIASES[words[0]]]
    _open_closed_streams()
    try:
        result = mesh.main(words, prog_name="mesh", standalone_mode=False, obj=agents)
        return result if isinstance(result, int) else 0
    except click.exceptions.NoArgsIsHelpError as error:  # of a group of an installed package
        click.echo(error.format_message())
        return 0
    except click.UsageError as error:
        _complain(_usage_line(error))
        return _WRONG_USE
    except MeshError as error:
        _complain(in_one_line(error.message, _command_remedy(error)))
        return _FAILED
    except click.ClickException as error:
        _complain(error.format_message())
        return _FAILED
    except click.Abort:
        return _INTERRUPTED
    except OSError as error:  # the help's, or one that _is_of_output
        _complain(f"the output cannot be written: {error.strerror}; make room, or write it elsewhere")
        return _FAILED


def _open_closed_streams() -> None:
    """Replace streams that the caller has closed, so that no other file gets their numbers."""
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "r" if name == "stdin" else "w"))  # noqa: SIM115 - to the end


def _is_of_output(error: Exception) -> bool:
    """Whether printing failed, and not the command."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return (
        isinstance(error, OSError)
        and trace is not None
        and trace.tb_frame.f_globals["__name__"] == "click.utils"
    )


def _command_remedy(error: MeshError) -> str:
    """The remedy of an error, in options and variables where a mesh speaks of headers."""
    if error.status == _UNAUTHENTICATED:
        return "put a key of that mesh into MESH_ADMIN_TOKEN; mesh keys create makes one on its machine"
    return "leave --tenant out" if error.field == "Mesh-Tenant" else error.remedy


def _complain(message: str) -> None:
    line = " ".join("".join(character if character.isprintable() else " " for character in message).split())
    if sys.stderr.isatty():
        from meshwright.console.output import wrapped  # which breaks no word, as a terminal does

        line = wrapped(line, indent=len("mesh: "))
    click.echo(f"mesh: {line}", err=True)


def _usage_line(error: click.UsageError) -> str:
    message = error.format_message().rstrip(".")
    if isinstance(error, click.NoSuchOption):
        return _no_such_option(error)
    if error.ctx is None or isinstance(error.ctx.command, click.Group):
        return message
    if message.startswith("Got unexpected extra argument") and error.ctx.info_name in _EXAMPLES:
        example = f"{error.ctx.command_path} {_EXAMPLES[error.ctx.info_name]}"
        return f"{message}; put the text in quotes, such as: {example}"
    pieces = [error.ctx.command_path, *error.ctx.command.collect_usage_pieces(error.ctx)]
    options = (param for param in error.ctx.command.params if isinstance(param, click.Option))
    pieces += [f"{option.opts[-1]} {option.metavar}" for option in options if option.required]
    return f"{message}; type: {' '.join(pieces)}"


def _no_such_option(error: click.NoSuchOption) -> str:
    from meshwright.core.errors import nearest

    path = "mesh" if error.ctx is None else error.ctx.command_path
    options = {name.lstrip("-"): name for name in error.possibilities or ()}
    likely = nearest(error.option_name.lstrip("-"), options)
    hint = f"did you mean {options[likely]}" if likely else f"{path} --help lists them"
    return f"No such option {error.option_name!r}; {hint}"


_EXAMPLES = {
    "ask": 'simple-agent "What is a turn?"',
    "submit": 'simple-agent "What is a turn?"',
    "answer": 'ID KEY "yes, it did"',
}
"""Commands that take a text, and how they are called."""


def _deliberate(group: ExceptionGroup[Exception]) -> MeshError | None:
    """The error that a group of errors was raised for, if it was raised on purpose."""
    error, _ = group.split(MeshError)
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error if isinstance(error, MeshError) else None


_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EIO)


def _unexpected(error: Exception, ctx: click.Context) -> click.ClickException:
    """Store the traceback of an unexpected error, and say where it is. A disk that fails is expected."""
    disk = error
    while isinstance(disk, ExceptionGroup):
        disk = disk.exceptions[0]
    if isinstance(disk, OSError) and disk.errno in _DISK_ERRORS:
        place = disk.filename or ctx.meta.get(DATA_KEY) or _data_folder()
        return click.ClickException(
            f"Cannot write to {place}: {disk.strerror}; make room or the folder writable and start again: "
            "accepted tasks go on by themselves"
        )
    from meshwright.console.process import keep_traceback

    where = keep_traceback(error, ctx.meta.get(DATA_KEY) or _data_folder())
    return _UnexpectedError(f"unexpected {type(error).__name__}: {error} ({where})")
