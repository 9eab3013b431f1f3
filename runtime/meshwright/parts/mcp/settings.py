"""[mcp.NAME]: MCP servers, which of their tools are offered, and to whom; and the servers of `.mcp.json`."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self
from urllib.parse import urlsplit

from pydantic import Field, StringConstraints, model_validator

from meshwright.component import Secret, Table
from meshwright.core.redaction import REDACTED
from meshwright.core.settings.forms import resolve
from meshwright.kit import ConfigError

MCP_FILE = ".mcp.json"
_MAX_FILE_BYTES = 1_000_000
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")
_MIN_SECRET_CHARS = 4  # shorter ones are parts of words
LOOPBACK = ("localhost", "127.0.0.1", "::1")


class McpServerSettings(Table):
    """A server: the `command` that starts it, or its `url`; else that of its name in `.mcp.json`."""

    command: str = ""
    """The program that is the server, found on PATH; it runs in the project's folder."""
    args: tuple[str, ...] = ()
    """The arguments of the program."""
    env: Mapping[str, Secret] = {}
    """Further variables for the program, which gets HOME, LOGNAME, PATH, SHELL, TERM and USER alone."""
    url: str = ""
    """The address of a server that is reached by streamable HTTP."""
    headers: Mapping[str, Secret] = {}
    """Headers of each request to that address, such as `Authorization`."""
    client_id: str = Field(default="", max_length=1_000)
    """The id of a client that you have registered, where the authorization server takes no registrations."""
    client_secret: Secret | None = None
    """The secret of that client, if it has one."""
    redirect_url: str = Field(default="", pattern=r"^(http://(localhost|127\.0\.0\.1):[0-9]{1,5}/\S*)?$")
    """Its registered address here, as http://localhost:8765/callback; by default a free port."""
    tools: tuple[str, ...] = ()
    """Patterns of the names of tools that are offered, like `read_*`. None named, none offered."""
    reads: tuple[str, ...] = ()
    """Patterns of tools of which you know that they change nothing, whatever the server says of them."""
    idempotent: tuple[str, ...] = ()
    """Patterns of tools that may be called twice: a call that a crash cut off is made again, unasked."""
    approve: Literal["changes", "always", "never"] = "changes"
    """The calls that a person approves: those that may change something, all, or none."""
    agents: tuple[str, ...] = ()
    """Patterns of the agents that get the tools without naming `mcp.NAME` among their toolsets."""
    origin: Literal["outside", "workspace"] = "outside"
    """The origin of the words in its results: strangers, or files of your workspace."""
    timeout_seconds: float = Field(default=60.0, gt=0, le=86_400)
    """Seconds that a call may take."""

    @model_validator(mode="after")
    def _is_one_server(self) -> Self:
        if self.command and self.url:
            raise ValueError("has a command and a url: write one of them")
        if self.args and not self.command:
            raise ValueError("has args and no command")
        if not self.client_id and (self.client_secret is not None or self.redirect_url):
            raise ValueError("has client_secret or redirect_url and no client_id")
        if urlsplit(self.redirect_url).port == 0:  # raises for one over 65535
            raise ValueError("redirect_url names no port")
        if self.client_id and not self.url:
            raise ValueError("has a client_id and no url: only servers at addresses have a sign-in")
        if self.url:
            _check_url(self.url, has_headers=bool(self.headers))
        return self


ServerName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,31}$")]
McpSettings = Mapping[ServerName, McpServerSettings]
"""[mcp]: a table for each server."""


class McpClient(NamedTuple):
    """A client that was registered with an authorization server; its secret is plain here."""

    id: str
    secret: str = ""
    redirect_url: str = ""


class McpServer(NamedTuple):
    """A server as it is started or reached; its secrets are plain here.

    `variables` are the values that `.mcp.json` has from the environment, by the `${NAME}` that says so.
    """

    command: str = ""
    args: tuple[str, ...] = ()
    env: Mapping[str, str] = {}
    url: str = ""
    headers: Mapping[str, str] = {}
    client: McpClient | None = None
    variables: Mapping[str, str] = {}

    def masked(self, text: str) -> str:
        """A text without the secrets of the server, which it may have said."""
        own = (self.client.secret,) if self.client is not None else ()
        secrets = (*self.env.values(), *self.headers.values(), *own)
        names = dict.fromkeys(secrets, REDACTED) | {value: name for name, value in self.variables.items()}
        for secret in sorted(names, key=len, reverse=True):
            if len(secret) >= _MIN_SECRET_CHARS:
                text = text.replace(secret, names[secret])
        return text

    @property
    def where(self) -> str:
        """Its command or address for people, without secrets."""
        if self.command:
            return self.masked(" ".join((self.command, *self.args)))
        parts = urlsplit(self.masked(self.url))
        return f"{parts.scheme}://{parts.hostname}{f':{parts.port}' if parts.port else ''}{parts.path}"

    @property
    def may_sign_in(self) -> bool:
        """Whether tokens may go there: to an address over https, or here, that gets no credentials so far."""
        parts = urlsplit(self.url)
        has_credentials = any(name.lower() == "authorization" for name in self.headers)
        return not has_credentials and (parts.scheme == "https" or parts.hostname in LOOPBACK)


def find_server(name: str, settings: McpServerSettings, project: Path) -> McpServer:
    """The server of a table, or of its name in `.mcp.json`. Raises ConfigError where neither says."""
    if settings.command or settings.url:
        return McpServer(
            settings.command,
            settings.args,
            _plain(settings.env),
            settings.url,
            _plain(settings.headers),
            _make_client(settings),
        )
    servers = read_file(project)
    if name not in servers:
        remedy = f'Write command = "..." or url = "..." in it, or add {name} to {MCP_FILE}'
        raise ConfigError(f"[mcp.{name}] says neither command nor url", remedy=remedy, field=f"mcp.{name}")
    return servers[name]


def _make_client(settings: McpServerSettings) -> McpClient | None:
    if not settings.client_id:
        return None
    secret = settings.client_secret.get_secret_value() if settings.client_secret is not None else ""
    return McpClient(settings.client_id, secret, settings.redirect_url)


def read_file(project: Path) -> dict[str, McpServer]:
    """The servers of the project's `.mcp.json`, by name; `${VARIABLE}` is that of the environment.

    Raises ConfigError, which names the file and the server.
    """
    path = project / MCP_FILE
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_FILE_BYTES + 1)
        document = json.loads(data) if len(data) <= _MAX_FILE_BYTES else None
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"it cannot be read: {error}", path=str(path)) from error
    servers = document.get("mcpServers") if isinstance(document, dict) else None
    if not isinstance(servers, dict):
        remedy = 'Write {"mcpServers": {"NAME": {"command": "...", "args": []}}}'
        raise ConfigError("it has no object mcpServers", path=str(path), remedy=remedy)
    return {name: _server_in(path, name, fields) for name, fields in servers.items()}


def _server_in(path: Path, name: str, fields: Any) -> McpServer:
    if not isinstance(fields, dict) or bool(fields.get("command")) == bool(fields.get("url")):
        remedy = "Write one of the two"
        raise ConfigError(f"{name} has neither command nor url, or both", path=str(path), remedy=remedy)
    variables: dict[str, str] = {}

    def text(value: Any) -> str:
        return _text(value, variables)

    try:
        server = McpServer(
            text(fields.get("command", "")),
            tuple(map(text, fields.get("args", ()))),
            {key: resolve(text(value)) for key, value in fields.get("env", {}).items()},
            text(fields.get("url", "")),
            {key: resolve(text(value)) for key, value in fields.get("headers", {}).items()},
            variables=variables,
        )
        if server.url:
            _check_url(server.url, has_headers=bool(server.headers))
    except (TypeError, AttributeError, ValueError) as error:
        raise ConfigError(f"{name}: {error}", path=str(path)) from error
    return server


def _text(value: Any, variables: dict[str, str]) -> str:
    if not isinstance(value, str):
        raise TypeError(f"expected text, not {type(value).__name__}")
    variables |= {f"${{{match[1]}}}": _variable(match) for match in _VARIABLE.finditer(value)}
    return _VARIABLE.sub(_variable, value)


def _variable(match: re.Match[str]) -> str:
    value = os.environ.get(match[1], match[2])
    if value is None:
        raise ValueError(f"the environment has no {match[1]}")
    return value


def _check_url(url: str, *, has_headers: bool) -> None:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("the url must begin with https:// or http://")
    if parts.username or parts.password:
        raise ValueError("the url holds credentials: put them into headers")
    if parts.scheme == "http" and has_headers and parts.hostname not in LOOPBACK:
        raise ValueError("headers go over https alone, or to this machine")


def _plain(secrets: Mapping[str, Any]) -> dict[str, str]:
    return {name: secret.get_secret_value() for name, secret in secrets.items()}
