"""`mesh prompts`."""

from __future__ import annotations

import click

from meshwright.cli.options import data_option


@click.group(no_args_is_help=False)
def prompts() -> None:
    """Look after the prompt files."""


@prompts.command()
@data_option
def check(data: object) -> int:
    """Read every prompt file, and say what is wrong with which line."""
    return 0
