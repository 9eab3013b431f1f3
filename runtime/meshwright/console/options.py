"""The options that commands share, the types of their values, and how a command asks before it acts.

`mesh --help` loads this: a module that a value needs is imported where the value is read.
"""

from __future__ import annotations

import re
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import wraps
from pathlib import Path
from typing import Any, NamedTuple

import click
from click.core import ParameterSource

from meshwright.core.errors import InvalidInput

_WORDS = {"y": True, "yes": True, "n": False, "no": False, "": False}
_MAX_ECHO = 40
DATA_KEY = "meshwright.data"
DEFAULT_DATA = ".mesh"
_MOST = 100_000
_MAX_FILE_BYTES = 48 * 1024 * 1024  # in base64 the most that max_payload_bytes may be
_DURATION = re.compile(r"(?:[0-9]{1,9}(?:\.[0-9]{1,3})?[smhd])+")
_PART = re.compile(r"([0-9.]+)([smhd])")
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
ON_EMPTY = ["fail", "wait", "ask", "cheaper"]
"""The policies of a budget without money."""


class Target(NamedTuple):
    """The mesh that a command talks to."""

    url: str | None
    """`--url`. None: by the data folder."""
    data: Path | None
    """`--data`. None: that of the settings."""
    tenant: str | None = None
    """`--tenant`: the tenant to act for. None: the caller's own."""


class WholeNumber(click.IntRange):
    """An option's number within bounds; an error says which they are."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The number. Raises BadParameter."""
        try:
            return int(super().convert(value, param, ctx))
        except click.BadParameter:
            bounds = f"from {self.min} to {self.max}" if self.max is not None else f"of {self.min} or more"
            self.fail(f"{str(value)!r} is not a whole number {bounds}", param, ctx)


class Number(click.FloatRange):
    """An option's number, of seconds for example, within bounds; an error says which they are."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The number. Raises BadParameter."""
        try:
            return float(super().convert(value, param, ctx))
        except click.BadParameter:
            above = f"{'above' if self.min_open else 'from'} {self.min:g}"
            most = f" up to {self.max:g}" if self.max is not None else ""
            self.fail(f"{str(value)!r} is not a number {above}{most}", param, ctx)


class _Duration(click.ParamType[float]):
    name = "DURATION"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The seconds of 90s, 15m, 1h30m or 1d."""
        if not _DURATION.fullmatch(str(value)):
            self.fail(f"{value!r} is no duration, such as 90s, 15m, 1h30m or 1d", param, ctx)
        return sum(float(number) * UNITS[unit] for number, unit in _PART.findall(str(value)))


class _Amount(click.ParamType[str]):
    name = "USD"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The text of an amount of dollars, without the sign."""
        from decimal import Decimal, InvalidOperation

        text = str(value).strip().removeprefix("$")
        try:
            amount = Decimal(text)
        except InvalidOperation:
            amount = Decimal(-1)
        if not amount.is_finite() or amount <= 0:
            self.fail(f"{value!r} is no amount of dollars, such as 0.50", param, ctx)
        return text


class Since(click.ParamType[str]):
    """A time, or so long ago, as RFC 3339."""

    name = "TIME"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The RFC 3339 time of a time, or of so long ago; of `22:00` the last time that it was here."""
        from datetime import UTC, datetime, time, timedelta

        from meshwright.money.costs import parse_since

        with suppress(ValueError):
            now = datetime.now().astimezone()
            clock = time.fromisoformat(str(value) if ":" in str(value) else "")
            at = datetime.combine(now.date(), clock).astimezone()
            return (at if at <= now else at - timedelta(days=1)).isoformat()
        try:
            return parse_since(str(value), datetime.now(UTC)).isoformat()
        except InvalidInput as error:
            self.fail(f"{error.message}; {error.remedy}", param, ctx)


class _Json(click.ParamType[Any]):
    name = "JSON"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The JSON value, in a tuple since null is one too."""
        import json

        utf8(ctx, param, value)
        try:
            return (json.loads(value),)
        except (ValueError, RecursionError) as error:
            self.fail(f"not JSON: {error}", param, ctx)


class _JsonObject(_Json):
    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The JSON object."""
        [parsed] = super().convert(value, param, ctx)
        if not isinstance(parsed, dict):
            self.fail('not a JSON object, such as {"text": "..."}', param, ctx)
        return parsed


class _File(click.ParamType[Any]):
    name = "FILE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The entry of `payload.files` for a file of this machine, or the address of one."""
        import base64
        from mimetypes import guess_type

        from meshwright.core.files import parse_task_file

        if isinstance(value, dict):
            return value
        if value.startswith(("http://", "https://", "data:")) or parse_task_file(value) is not None:
            return {"url": value}
        try:
            path = Path(value).expanduser()
            if (size := path.stat().st_size) > _MAX_FILE_BYTES:
                self.fail(f"{value} has {size:,} bytes; {_MAX_FILE_BYTES:,} can be sent", param, ctx)
            data = path.read_bytes()
        except OSError as error:
            self.fail(f"cannot read {value}: {error.strerror}", param, ctx)
        kind = guess_type(value)[0] or "application/octet-stream"
        url = f"data:{kind};base64,{base64.b64encode(data).decode()}"
        return {"url": url, "name": Path(value).name}


DURATION, AMOUNT, JSON_VALUE, JSON_OBJECT, FILE = _Duration(), _Amount(), _Json(), _JsonObject(), _File()


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


def _encodable(text: str, source: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:  # Python reads bytes that are no character as halves of one
        raise _not_utf8(source) from None
    return text


def _not_utf8(source: str) -> InvalidInput:
    return InvalidInput(f"{source} is not UTF-8", remedy="convert it, as with iconv -f latin1 -t utf-8")


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
        option = "MESH_URL" if in_environment else "--url"
        leave = "unset MESH_URL, or leave out --data" if in_environment else "leave one of them out"
        raise click.UsageError(f"--data {data} and {option} ({url}) name different meshes: {leave}", ctx)


database_option = click.option(
    "--database",
    metavar="URL",
    help="PostgreSQL that several workers share: postgresql://user@host/name (or MESH_DATABASE).",
)
log_option = click.option(
    "--log-level",
    multiple=True,
    metavar="[LOGGER=]LEVEL",
    help="Log debug, info, warning, error or critical, of one logger or all of the mesh (or MESH_LOG_LEVEL).",
)
data_option = click.option(
    "--data",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    callback=_remember_data,
    help="The folder of the mesh's data (default: data_dir of mesh.toml, else .mesh).",
)
raw_option = click.option(
    "--raw", is_flag=True, help="Print the answer as it was written: a terminal draws Markdown."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
since_option = click.option(
    "--since", type=Since(), help="From when: 24h, 7d, 2026-01-01T00:00Z (default: ever)."
)
until_option = click.option("--until", type=Since(), help="Until when, said in the same way (default: now).")
follow_option = click.option("-f", "--follow", is_flag=True, help="Continue with what is new, until Ctrl-C.")
quiet_option = click.option("-q", "--quiet", is_flag=True, help="Do not show the progress of the task.")
yes_option = click.option("-y", "--yes", is_flag=True, help="Do not ask.")
_tenant_option = click.option(
    "--tenant", metavar="ID", help="For this tenant, as an administrator of all tenants may."
)
_url_option = click.option(
    "--url",
    envvar="MESH_URL",
    metavar="URL",
    callback=_check_url,
    help="A running mesh, such as http://127.0.0.1:8000 (or set MESH_URL).",
)


def limit_option(default: int | None, most: int = 500, *, otherwise: str = "") -> Callable[..., Any]:
    """`--limit`: how many a list shows; `otherwise` says how many without it, where that is no one number."""
    text = f"How many to show{f' (default: {otherwise})' if otherwise else ''}."
    is_one = default is not None
    number = WholeNumber(1, most)
    return click.option("--limit", type=number, metavar="N", default=default, show_default=is_one, help=text)


def mesh_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--url`, `--data` and `--tenant`; the command gets them as its first argument, a Target."""

    @wraps(command)
    def call(*, url: str | None, data: Path | None, tenant: str | None, **options: Any) -> Any:
        return command(Target(url, data, tenant), **options)

    return _url_option(data_option(_tenant_option(call)))


def time_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options --timeout and --deadline of a task."""
    timeout = click.option(
        "--timeout",
        type=Number(min=0, min_open=True, max=86_400),
        metavar="SECONDS",
        help="What one step may take: a call of a model or a tool. Default: that of the agent.",
    )
    deadline = click.option(
        "--deadline",
        type=Number(min=0, min_open=True, max=604_800),
        metavar="SECONDS",
        help="What the task may take. Default: that of the agent.",
    )
    return timeout(deadline(command))


_LIMITS: dict[str, tuple[str, click.ParamType[Any], str]] = {
    "max_steps": ("N", WholeNumber(1, _MOST), "Replies of the model that may call tools."),
    "max_repeats": ("N", WholeNumber(2, _MOST), "How often in a row the same calls may give the same."),
    "max_tokens": ("N", WholeNumber(1), "Tokens that models may read and write."),
    "max_usd": ("USD", AMOUNT, "What its own model calls may cost before it has to answer."),
    "max_seconds": ("S", Number(0, min_open=True), "Seconds that models and tools may take."),
}


def limit_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of each limit; the command gets those given as `limits`, or None."""

    @wraps(command)
    def call(*args: Any, **options: Any) -> Any:
        chosen = {name: options.pop(name) for name in _LIMITS}
        limits = {name: value for name, value in chosen.items() if value is not None}
        return command(*args, limits=limits or None, **options)

    option: Any = call
    for name, (metavar, kind, text) in reversed(_LIMITS.items()):
        option = click.option(f"--{name.replace('_', '-')}", type=kind, metavar=metavar, help=text)(option)
    return option


def task_budget_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options of a task: what it does without money, and what such tasks have cost before."""
    on_empty = click.option(
        "--on-empty",
        type=click.Choice(ON_EMPTY),
        default="fail",
        show_default=True,
        help="Without money: fail, wait, ask somebody to raise it, or go on with a cheaper model.",
    )
    estimate = click.option("--estimate", is_flag=True, help="Only say what such tasks have cost before.")
    return on_empty(estimate(command))


def confirm(consequence: str) -> None:
    """Ask before something that others notice.

    Raises UsageError without a terminal, ClickException for a no, Abort for Ctrl-C.
    """
    if not sys.stdin.isatty():
        raise click.UsageError(f"{consequence} Add --yes to confirm.", click.get_current_context())
    from meshwright.console.output import wrapped

    if not ask(wrapped(f"{consequence} Continue?", indent=0)):
        raise click.ClickException("nothing was done")


def ask(question: str) -> bool:
    """Ask for a yes or a no; an empty line is a no.

    Raises Abort for Ctrl-C, also while an event loop holds that back, and for Ctrl-D.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    prompt = f"{question} [y/N]"
    try:
        while (text := click.prompt(prompt, "", show_default=False, err=True).strip()).lower() not in _WORDS:
            prompt = f"{text[:_MAX_ECHO]!r} is neither y nor n. [y/N]"
        return _WORDS[text.lower()]
    finally:
        signal.signal(signal.SIGINT, before)
