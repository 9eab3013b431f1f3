"""The options that commands share, and whether the code of a folder may be used: `--trust`.

Running a mesh in a folder runs its agents, as `make` runs its Makefile. A person at a terminal is asked once
for each folder. Without a terminal (scripts, services, containers, CI) there is no question.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar
from urllib.parse import urlsplit

import click
from click.core import ParameterSource

from meshwright.core.errors import InvalidInput

if TYPE_CHECKING:
    from meshwright.settings import Settings

DATA_KEY = "meshwright.data"
DEFAULT_DATA = ".mesh"
_TRUST_KEY = "meshwright.trust"
_TRUST_FILE = "trusted"
_YES = ("1", "true", "yes", "on")
_MAX_NAMED = 6
CommandT = TypeVar("CommandT", bound=Callable[..., Any])


class WholeNumber(click.IntRange):
    """An option's number within bounds; an error says which they are."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The number. Raises BadParameter."""
        try:
            return int(super().convert(value, param, ctx))
        except click.BadParameter:
            bounds = f"from {self.min} to {self.max}" if self.max is not None else f"of {self.min} or more"
            self.fail(f"{str(value)!r} is not a whole number {bounds}", param, ctx)


class Target(NamedTuple):
    """Which mesh a command talks to, by `--url` or `--data`, and for which tenant, if not its own."""

    url: str | None
    data: Path | None
    tenant: str | None = None


def _remember_data(ctx: click.Context, parameter: click.Parameter, value: Path | None) -> Path | None:
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
        in_environment = ctx.get_parameter_source("url") is ParameterSource.ENVIRONMENT
        given = "MESH_URL" if in_environment else "--url"
        leave = "unset MESH_URL, or leave out --data" if in_environment else "leave one of them out"
        raise click.UsageError(f"--data {data} and {given} ({url}) name different meshes: {leave}", ctx)


def from_stdin(ctx: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    """Read a text from stdin where `-` is given for it. Raises for one that is empty or not UTF-8."""
    text = _read_stdin() if value == "-" else utf8(ctx, parameter, value)
    if text is not None and not text.strip():
        raise click.BadParameter("it is empty", ctx, parameter)
    return text


def _read_stdin() -> str:
    try:
        return _encodable(sys.stdin.read(), "stdin")
    except UnicodeDecodeError:
        raise _not_utf8("stdin") from None


def utf8(ctx: click.Context | None, parameter: click.Parameter | None, value: str | None) -> str | None:
    """Refuse a text that is not UTF-8. Raises InvalidInput, which names the option or argument."""
    name = parameter.opts[-1] if parameter is not None else "it"
    return value if value is None else _encodable(value, name if name.startswith("-") else name.upper())


def _encodable(text: str, what: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:  # Python reads bytes that are no character as halves of one
        raise _not_utf8(what) from None
    return text


def _not_utf8(what: str) -> InvalidInput:
    return InvalidInput(f"{what} is not UTF-8", remedy="convert it, as with iconv -f latin1 -t utf-8")


database_option = click.option(
    "--database",
    metavar="URL",
    help="PostgreSQL that several workers share: postgresql://user@host/name (or MESH_DATABASE).",
)
data_option = click.option(
    "--data",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    callback=_remember_data,
    help="The folder of the mesh's data (default: data_dir of mesh.toml, else .mesh).",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
quiet_option = click.option("-q", "--quiet", is_flag=True, help="Do not show the progress of the task.")
yes_option = click.option("-y", "--yes", is_flag=True, help="Do not ask.")


def time_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options --timeout and --deadline of a task."""
    timeout = click.option(
        "--timeout",
        type=click.FloatRange(min=0, min_open=True, max=86_400),
        metavar="SECONDS",
        help="What one step may take: a call of a model or a tool. Default: that of the agent.",
    )
    deadline = click.option(
        "--deadline",
        type=click.FloatRange(min=0, min_open=True, max=604_800),
        metavar="SECONDS",
        help="What the task may take. Default: that of the agent.",
    )
    return timeout(deadline(command))


def mesh_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--url`, `--data` and `--as-tenant`; the command gets them as its first argument, a Target."""

    @wraps(command)
    def call(*, url: str | None, data: Path | None, as_tenant: str | None, **given: Any) -> Any:
        return command(Target(url, data, as_tenant), **given)

    tenant_option = click.option(
        "--as-tenant", metavar="ID", help="Act for this tenant, as the mesh's administrator may."
    )

    url_option = click.option(
        "--url",
        envvar="MESH_URL",
        metavar="URL",
        callback=_check_url,
        help="A running mesh, such as http://127.0.0.1:8000 (or set MESH_URL).",
    )
    return url_option(data_option(tenant_option(call)))


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
    risks = _risks(folder, settings)
    if not risks or _is_trusted(folder) or not (sys.stdin.isatty() and sys.stderr.isatty()):
        return
    listed = "\n".join(f"  {risk}" for risk in risks)
    question = f"Running a mesh in {folder} uses:\n{listed}\nThe code runs with your rights. Do you trust it?"
    if not click.confirm(question, err=True):
        raise click.ClickException(f"nothing of {folder} was run; --trust answers yes beforehand")
    _remember_trust(folder)


def _risks(folder: Path, settings: Settings) -> list[str]:
    """Says which files of a folder are used that may do harm."""
    from meshwright.agents.loader import CHECKOUT, PACKAGED, project_file

    if folder in (CHECKOUT.resolve(), PACKAGED.resolve()):
        return []
    risks = []
    actors = project_file(Path(), settings.agents.dir)
    if actors.is_dir() and actors.resolve() not in (PACKAGED / "actors", CHECKOUT / "actors"):
        names = sorted(path.name for path in actors.iterdir() if path.suffix == ".py" or path.is_dir())
        more = f", and {len(names) - _MAX_NAMED} more" if len(names) > _MAX_NAMED else ""
        risks.append(f"{settings.agents.dir}/: its Python code ({', '.join(names[:_MAX_NAMED])}{more})")
    if text := _text_of(Path("mesh.toml")):
        url = settings.models.base_url
        sends = url and url in text
        sent = f": sends your LITELLM_API_KEY and every prompt to {urlsplit(url).netloc}" if sends else ""
        risks.append(f"mesh.toml{sent}")
    if text := _text_of(settings.models.config):
        names = sorted(set(re.findall(r"os\.environ/(\w+)", text)))
        sent = f": may send {', '.join(names)} of your environment to the servers it names" if names else ""
        risks.append(f"{settings.models.config}{sent}")
    return risks


def _text_of(path: Path) -> str:
    try:
        return path.read_text("utf-8", errors="replace")
    except OSError:  # there is none; one that cannot be read is refused where it is used
        return ""


def _is_trusted(folder: Path) -> bool:
    context = click.get_current_context(silent=True)
    if context is not None and context.meta.get(_TRUST_KEY):
        return True
    return os.environ.get("MESH_TRUST", "").lower() in _YES or str(folder) in _trusted().splitlines()


def _trusted() -> str:
    from meshwright.sql.folder import read_private

    try:
        return read_private(_config_folder() / _TRUST_FILE)
    except (OSError, ValueError):  # nothing was trusted yet
        return ""


def _remember_trust(folder: Path) -> None:
    from meshwright.sql.folder import write_private

    try:
        _config_folder().mkdir(mode=0o700, parents=True, exist_ok=True)
        write_private(_config_folder() / _TRUST_FILE, f"{_trusted()}{folder}\n")
    except OSError as error:
        click.echo(f"mesh: warning: the answer cannot be remembered: {error}", err=True)


def _config_folder() -> Path:
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "meshwright"
