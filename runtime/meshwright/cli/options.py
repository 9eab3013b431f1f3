"""The options that commands share."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
from click.core import ParameterSource

DATA_KEY = "meshwright.data"
DEFAULT_DATA = ".mesh"
CommandT = TypeVar("CommandT", bound=Callable[..., Any])


def _remember(ctx: click.Context, parameter: click.Parameter, value: Path | None) -> Path | None:
    """Keep the folder where the report of an unexpected error can find it."""
    ctx.meta[DATA_KEY] = value
    _check_one(ctx, ctx.params.get("url"), value)
    return value


def _check_url(ctx: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    if value and not value.startswith(("http://", "https://")):
        raise click.BadParameter(f"{value!r} does not start with http:// or https://", ctx, parameter)
    _check_one(ctx, value, ctx.params.get("data"))
    return value or None


def _check_one(ctx: click.Context, url: str | None, data: Path | None) -> None:
    """Refuse a folder beside a URL: each names a mesh, and a command must not choose."""
    if url and data:
        given = "MESH_URL" if ctx.get_parameter_source("url") is ParameterSource.ENVIRONMENT else "--url"
        leave = "unset MESH_URL, or leave out --data" if given == "MESH_URL" else "leave one of them out"
        raise click.UsageError(f"--data {data} and {given} ({url}) name different meshes: {leave}", ctx)


def from_stdin(ctx: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    """Read a text from stdin where `-` is given for it. One with nothing in it is refused."""
    text = sys.stdin.read() if value == "-" else value
    if text is not None and not text.strip():
        raise click.BadParameter("it is empty", ctx, parameter)
    return text


database_option = click.option(
    "--database",
    metavar="URL",
    help="PostgreSQL that several workers share: postgresql://user@host/name (or MESH_DATABASE).",
)


def data_option(command: CommandT) -> CommandT:
    """`--data DIR`: the folder of the mesh's data; None leaves it to the settings."""
    return click.option(
        "--data",
        type=click.Path(file_okay=False, path_type=Path),
        metavar="DIR",
        callback=_remember,
        help="The folder of the mesh's data (default: data_dir of mesh.toml, else .mesh).",
    )(command)


def mesh_options(command: CommandT) -> CommandT:
    """`--url` and `--data`: which mesh a command talks to."""
    url = click.option(
        "--url",
        envvar="MESH_URL",
        metavar="URL",
        callback=_check_url,
        help="A running mesh, such as http://127.0.0.1:8000 (or set MESH_URL).",
    )
    return url(data_option(command))


def json_option(command: CommandT) -> CommandT:
    """`--json`: print JSON instead of text."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(command)


def quiet_option(command: CommandT) -> CommandT:
    """`--quiet`: do not show the progress of the task."""
    return click.option("-q", "--quiet", is_flag=True, help="Do not show the progress of the task.")(command)


def seconds_option(command: CommandT) -> CommandT:
    """`--timeout SECONDS` of one attempt at a task."""
    return click.option(
        "--timeout",
        type=click.FloatRange(min=0, min_open=True, max=86_400),
        default=120.0,
        show_default=True,
        metavar="SECONDS",
        help="What one attempt may take.",
    )(command)
