"""Whether the code and the settings of a folder may be used: asked once for each folder, at a terminal.

Running a mesh in a folder runs its agents, as `make` runs its Makefile. Without a terminal (scripts,
services, containers, CI) nobody is asked: who starts it there has decided.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

import click

if TYPE_CHECKING:
    from meshwright.settings import Settings

CommandT = TypeVar("CommandT", bound=Callable[..., Any])
_TRUST_KEY = "meshwright.trust"
VARIABLE = "MESH_TRUST"
FILE_NAME = "trusted"
_YES = ("1", "true", "yes", "on")
_MAX_NAMED = 6


def trust_option(command: CommandT) -> CommandT:
    """`--trust`: use what is in the folder without a question."""

    def remember(ctx: click.Context, parameter: click.Parameter, value: bool) -> None:
        ctx.meta[_TRUST_KEY] = value

    return click.option(
        "--trust",
        is_flag=True,
        expose_value=False,
        callback=remember,
        help="Run the agents of this folder without asking (or set MESH_TRUST=1).",
    )(command)


def require_trust(settings: Settings) -> None:
    """Ask whether to use the code and settings of the present folder. Raises ClickException for a no.

    A yes is remembered in the user's config folder. The agents that come with Meshwright need none, and
    neither does the checkout that it was installed from.
    """
    folder = Path.cwd().resolve()
    things = _things_of(folder, settings)
    if not things or _said_yes_before(folder) or not (sys.stdin.isatty() and sys.stderr.isatty()):
        return
    listed = "\n".join(f"  {thing}" for thing in things)
    question = f"Running a mesh in {folder} uses:\n{listed}\nThe code runs with your rights. Do you trust it?"
    if not click.confirm(question, err=True):
        raise click.ClickException(f"nothing of {folder} was run; --trust answers yes beforehand")
    _remember(folder)


def _things_of(folder: Path, settings: Settings) -> list[str]:
    """What of a folder is used that may do harm, in words."""
    from meshwright.agents.loader import CHECKOUT, PACKAGED, project_file

    if folder in (CHECKOUT.resolve(), PACKAGED.resolve()):
        return []
    things = []
    actors = project_file(Path(), settings.agents.dir)
    if actors.is_dir() and actors.resolve() not in (PACKAGED / "actors", CHECKOUT / "actors"):
        names = sorted(path.name for path in actors.iterdir() if path.suffix == ".py" or path.is_dir())
        more = f", and {len(names) - _MAX_NAMED} more" if len(names) > _MAX_NAMED else ""
        things.append(f"{settings.agents.dir}/: its Python code ({', '.join(names[:_MAX_NAMED])}{more})")
    if text := _text_of(Path("mesh.toml")):
        things.append(f"mesh.toml{_sends_key(text, settings)}")
    if text := _text_of(settings.models.config):
        names = sorted(set(re.findall(r"os\.environ/(\w+)", text)))
        sent = f": may send {', '.join(names)} of your environment to the servers it names" if names else ""
        things.append(f"{settings.models.config}{sent}")
    return things


def _sends_key(text: str, settings: Settings) -> str:
    """Where a server that the file names gets the user's key."""
    url = settings.models.base_url
    if not url or url not in text:
        return ""
    return f": sends your LITELLM_API_KEY and every prompt to {urlsplit(url).netloc}"


def _text_of(path: Path) -> str:
    try:
        return path.read_text("utf-8", errors="replace")
    except OSError:  # there is none; one that cannot be read is refused where it is used
        return ""


def _said_yes_before(folder: Path) -> bool:
    context = click.get_current_context(silent=True)
    if context is not None and context.meta.get(_TRUST_KEY):
        return True
    return os.environ.get(VARIABLE, "").lower() in _YES or str(folder) in _trusted().splitlines()


def _trusted() -> str:
    from meshwright.sql.folder import read_private

    try:
        return read_private(_config_folder() / FILE_NAME)
    except (OSError, ValueError):  # nothing was trusted yet
        return ""


def _remember(folder: Path) -> None:
    from meshwright.sql.folder import write_private

    try:
        _config_folder().mkdir(mode=0o700, parents=True, exist_ok=True)
        write_private(_config_folder() / FILE_NAME, f"{_trusted()}{folder}\n")
    except OSError as error:
        click.echo(f"mesh: warning: the answer cannot be remembered: {error}", err=True)


def _config_folder() -> Path:
    base = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(base) / "meshwright"
