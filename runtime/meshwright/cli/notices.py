"""What a mesh of this process tells of its prompt files: a line on stderr when it happens."""

from __future__ import annotations

import click

from meshwright import topics
from meshwright.cli.lines import line_of
from meshwright.mesh import Mesh
from meshwright.messages import Event

KINDS = {"prompt.fallback": "warning: ", "prompt.rejected": "warning: ", "prompt.reloaded": ""}


def tell_of_prompts(mesh: Mesh) -> None:
    """Say which prompt file cannot be used, and which was read again."""
    mesh.host.listen(topics.MESH, _tell)


def _tell(event: Event) -> None:
    line = line_of(event.model_dump(mode="json")) if event.event_type in KINDS else None
    if line:
        click.echo(f"mesh: {KINDS[event.event_type]}{line.text}", err=True)
