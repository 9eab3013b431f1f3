"""`mesh doctor`."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import click

from meshwright.cli.options import data_option
from meshwright.cli.trust import require_trust, trust_option
from meshwright.errors import MeshError, in_one_line

if TYPE_CHECKING:
    from meshwright.settings import Settings


@click.command()
@data_option
@trust_option
def doctor(data: Path | None) -> int:
    """Check the project and what its components depend on.

    Reads the settings, loads the agents and starts nothing. Exit status 1 if anything is wrong.
    """
    from meshwright.settings import load_settings

    settings = load_settings(Path(), data_dir=data)
    require_trust(settings)
    problems = asyncio.run(_examine(settings))
    click.echo("No problems." if not problems else f"{problems} of the checks failed.")
    return 1 if problems else 0


async def _examine(settings: Settings) -> int:
    from meshwright.app import build_mesh
    from meshwright.component import Component

    mesh, problems = build_mesh(settings), 0
    for component in mesh.components:
        for name, ask in component.checks() if isinstance(component, Component) else ():
            try:
                _show("ok", name, await ask())
            except MeshError as error:
                problems += 1
                _show("FAIL", name, in_one_line(error.message, error.remedy))
            except Exception as error:  # noqa: BLE001 - a component's own code may raise anything
                problems += 1
                _show("FAIL", name, f"{type(error).__name__}: {error}")
    for warning in mesh.warnings:
        _show("warn", "mesh", warning)
    await mesh.stop(drain_seconds=0)
    return problems


def _show(verdict: str, name: str, sentence: str) -> None:
    colour = {"ok": "green", "warn": "yellow", "FAIL": "red"}[verdict]
    click.echo(f"{click.style(f'{verdict:<4}', fg=colour)}  {name:<10}  {' '.join(sentence.split())}")
