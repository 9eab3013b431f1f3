"""`mesh init`: the files of a project with one agent, which has a tool, a prompt and a test."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from string import Template

import click

from meshwright.console.output import say
from meshwright.core import __version__
from meshwright.core.errors import Conflict

_TEMPLATES = Path(__file__).with_name("template")
_OF_AGENT = {
    "agent.py": "actors/{module}.py",
    "agent.prompt": "prompts/{agent_id}.prompt",
    "test_agent.py": "tests/test_{module}.py",
}
_OF_PROJECT = {
    "mesh.toml": "mesh.toml",
    "gitignore": ".gitignore",
    "Dockerfile": "Dockerfile",
    "README.md": "README.md",
    "AGENTS.md": "AGENTS.md",
    "SKILL.md": ".agents/skills/write-a-meshwright-agent/SKILL.md",
}
"""The path of each file that a template makes."""
_NO_CODE = {".git", ".gitignore", ".python-version", ".venv", "venv", "AGENTS.md", "LICENSE", "README.md"}
"""Files that a mesh does not run: beside them, all of its code is of this command."""
_NAME = re.compile(r"(?=.{1,48}$)[a-z][a-z0-9]*(?:[-_][a-z0-9]+)*")


def _named(ctx: click.Context, parameter: click.Parameter, value: str) -> str:
    if not _NAME.fullmatch(value):
        problem = (
            f"{value!r} is no name of an agent: up to 48 small letters and digits, such as release-agent"
        )
        raise click.BadParameter(problem, ctx, parameter)
    return value


@click.command()
@click.argument("folder", default=".", type=click.Path(file_okay=False, path_type=Path))
@click.option(
    "--agent",
    "agent_id",
    default="assistant",
    show_default=True,
    metavar="NAME",
    callback=_named,
    help="The agent's id: small letters and digits, with - between words.",
)
def init(folder: Path, agent_id: str) -> None:
    """Make a project with an agent, its tool, prompt and test.

    Writes actors/, prompts/, tests/, mesh.toml, .gitignore, Dockerfile and README.md into FOLDER (default:
    the present one), and AGENTS.md with a skill for coding agents that work on the project. Overwrites
    nothing: in a project that has some of them it adds the rest. With another --agent it adds an agent.
    """
    present = {path.name for path in folder.iterdir()} if folder.exists() else set[str]()
    words = {
        "agent_id": agent_id,
        "module": agent_id.replace("-", "_"),
        "class_name": "".join(map(str.capitalize, re.split(r"[-_]", agent_id.removesuffix("-agent"))))
        + "Agent",
        "project": re.sub(r"[^a-z0-9]+", "-", folder.resolve().name.lower()).strip("-") or "mesh",
        "version": __version__,
    }
    own = {name: folder / path.format(**words) for name, path in _OF_AGENT.items()}
    for path in own.values():
        if path.exists():
            remedy = "Name another agent with --agent NAME, or remove the file"
            raise Conflict(f"{path} is there already, and nothing was written", remedy=remedy)
    for name, path in own.items():
        _write(name, path, words)
    for name, path in _OF_PROJECT.items():
        _write(name, folder / path, words)
    if present <= _NO_CODE:  # all that a mesh runs there is of this command
        from meshwright.console.project import remember_trust

        remember_trust(folder.resolve())
    begin = "" if folder.resolve() == Path.cwd() else f"cd {shlex.quote(str(folder))} && "
    say(f'next: {begin}mesh ask {agent_id} "How do I run the tests?"', err=True)


def _write(name: str, path: Path, words: dict[str, str]) -> None:
    """Write the file that a template makes, unless there is one; says which it was."""
    template = Template((_TEMPLATES / f"{name}.txt").read_text("utf-8"))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            file.write(template.substitute(words))
    except FileExistsError:
        say(f"left {path} as it is", err=True)
    except OSError as error:
        raise click.ClickException(f"cannot write {error.filename or path}: {error.strerror}") from error
    else:
        click.echo(f"made {path}")
