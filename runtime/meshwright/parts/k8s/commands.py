"""`mesh k8s render`, which writes the manifests of a project, and `mesh probe`, which a container runs."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import click

from meshwright.console.project import require_trust, trust_option
from meshwright.edges.http.settings import HttpSettings
from meshwright.kit import ConfigError, Noun, WholeNumber

if TYPE_CHECKING:
    from meshwright.component import Settings
    from meshwright.parts.k8s.render import Project

_CONTEXT_SERVICE = "context-service"


@click.group(cls=Noun)
def k8s() -> None:
    """Write the manifests of a mesh on Kubernetes."""


@k8s.command()
@click.option(
    "--to",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("k8s"),
    show_default=True,
    help="Folder of the manifests.",
)
@click.option("--check", is_flag=True, help="Write nothing: exit status 1 where a file would change.")
@trust_option
def render(folder: Path, check: bool) -> int:
    """Write a base of kustomize and its overlays, from the agents, prompts and settings of this project.

    Overlays: sqlite (one pod), postgres (fronts and workers), dapr (an app for each agent); postgres-keda and
    dapr-keda scale. Files that an earlier render wrote and that are no more are deleted, others stay.
    """
    from meshwright.component import load_settings
    from meshwright.parts.k8s.render import rendered

    settings = load_settings(Path())
    require_trust(settings)
    texts = rendered(_project(settings))
    changed = [path for path, text in texts.items() if _read(folder / path) != text]
    obsolete = sorted(set(_earlier(folder)) - texts.keys())
    for path in (*changed, *obsolete):
        click.echo(f"{'delete' if path in obsolete else 'write'} {folder / path}")
        if not check:
            _put(folder / path, texts.get(path))
    click.echo(f"{len(texts)} files in {folder}, {len(changed) + len(obsolete)} changed", err=True)
    return int(check and bool(changed or obsolete))


@click.command()
@click.option("--port", type=WholeNumber(1, 65_535), metavar="N", help="Default: that of the settings.")
def probe(port: int | None) -> None:
    """Ask whether the mesh or worker of this machine is ready.

    Exit status 1 where it is not: the health check of a container.
    """
    from meshwright.component import load_settings
    from meshwright.parts.stack.machine import LOOPBACK, answers, server_url

    http = load_settings(Path())[HttpSettings]
    url = f"{server_url((LOOPBACK, port or http.plain_port or http.port))}/readyz"
    if not asyncio.run(answers(url)):
        raise click.ClickException(
            f"nothing is ready at {url}; name the port of the mesh or worker: --port N"
        )
    click.echo("ready")


def _project(settings: Settings) -> Project:
    """The project of the present folder. Raises ConfigError."""
    from meshwright.agents.component import agent_app, tool_settings
    from meshwright.agents.loader import prompts_folder
    from meshwright.kit import FRONT
    from meshwright.mesh.app import load_agents
    from meshwright.parts.k8s.render import Project
    from meshwright.parts.stack.machine import components_folder

    tools = tool_settings(settings, Path())
    agents = {agent.agent_id: agent for agent in load_agents(settings, Path.cwd())}
    prompts = prompts_folder(Path(), settings)
    names = sorted({_CONTEXT_SERVICE, *(agent.prompt for agent in agents.values())})
    try:
        paths = {name: prompts / f"{name}.prompt" for name in names}
        texts = {name: path.read_text("utf-8") for name, path in paths.items() if path.exists()}
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"the prompts cannot be read: {error}", path=str(prompts), remedy="mesh prompts check says more"
        ) from error
    return Project(
        settings=settings,
        agents={name: agent.prompt for name, agent in sorted(agents.items())},
        at_front=frozenset(name for name, agent in agents.items() if agent_app(agent, tools) == FRONT),
        prompts=texts,
        components=components_folder(Path()),
    )


def _read(path: Path) -> str | None:
    try:
        return path.read_text("utf-8")
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"the file cannot be read: {error}",
            path=str(path),
            remedy="move it out of the way, or use --to DIR",
        ) from error


def _earlier(folder: Path) -> Iterator[PurePosixPath]:
    """The files there that an earlier render wrote."""
    from meshwright.parts.k8s.render import WRITTEN

    for path in folder.rglob("*.yaml"):
        if (_read(path) or "").startswith(WRITTEN):
            yield PurePosixPath(path.relative_to(folder).as_posix())


def _put(path: Path, text: str | None) -> None:
    """Write a file, or delete it where it has no text. Raises ConfigError."""
    try:
        if text is None:
            path.unlink()
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
    except OSError as error:
        raise ConfigError(
            f"the file cannot be written: {error.strerror or error}", path=str(path), remedy="use --to DIR"
        ) from error
