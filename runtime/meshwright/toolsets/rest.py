"""Services that speak JSON over HTTP: a client for each, within limits, and the base of their toolsets.

    class PagerSettings(Table):
        server: RestService | None = None        # [tools.pager.server] url = "https://pager.example.com"

    class Pages(RestPart):
        @tool(idempotent=True, effect="read", origin="outside")
        async def pages(self, team: str) -> Any:
            '''The pages of a team.'''
            return await self.server.get("teams", team, "pages")

    class PagerTools(RestTools):
        name, config_type, parts = "pager", PagerSettings, {"server": Pages}

The operator names the server, never a model: arguments go into parts of a path, parameters and JSON bodies.
"""

from __future__ import annotations

import asyncio
import re
from base64 import b64encode
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Generic, NamedTuple, Self
from urllib.parse import quote, urlsplit

from pydantic import AfterValidator, Field, SecretStr, model_validator
from pydantic_core import from_json, to_json
from typing_extensions import TypeVar

from meshwright.agents.tools.functions import collect_tools
from meshwright.agents.tools.tool import Tool
from meshwright.agents.tools.toolset import Toolset, ToolSettings
from meshwright.core.checks import CheckResult
from meshwright.core.comments import mark_request
from meshwright.core.errors import InvalidInput, ToolFailed
from meshwright.core.http_calls import open_model_socket, read_bounded, retry_after
from meshwright.core.redaction import REDACTED, foreign_words
from meshwright.core.settings.forms import Secret, Size, Table, has_form, http_url

if TYPE_CHECKING:
    from aiohttp import ClientHandlerType, ClientRequest, ClientResponse, ClientSession

Params = Mapping[str, str | int | Sequence[str]]
"""Parameters of a query; one with several values is sent several times."""

_PAUSES_SECONDS = (0.1, 0.5)  # before a GET is tried again
_MAX_PAUSE_SECONDS = 5.0  # that a service may ask for
_PASSING = frozenset({408, 429, 502, 503, 504})
_MAX_WORDS = 500
_MAX_SHOWN = 200
_MAX_PART_CHARS = 500
_MIN_SECRET_CHARS = 4
_DAY_SECONDS = 86_400.0
_MAX_HEADER_BYTES = 16_380
_HEADERS = {"User-Agent": "meshwright", "Accept": "application/json", "Accept-Encoding": "gzip, deflate"}
_HEADER = re.compile(r"[A-Za-z0-9-]{1,64}")


def _no_credentials(url: str) -> str:
    parts = urlsplit(url)
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ValueError("expected a URL without user, password, query and fragment: they have settings")
    return url.rstrip("/")


ServiceUrl = Annotated[str, http_url("https://prometheus.example.com"), AfterValidator(_no_credentials)]


class RestService(Table):
    """A service: its address, the credentials that it takes, the limits of a call."""

    url: ServiceUrl
    """Address of its API, with the path before it if there is any."""
    token: Secret | None = None
    """Sent as `Authorization: Bearer`."""
    user: str = ""
    """User of HTTP's basic authentication, with `password`."""
    password: Secret | None = None
    """Password of that user."""
    headers: Mapping[str, Secret] = {}
    """Further headers of each request, such as `X-Scope-OrgID`."""
    ca_file: Path | None = None
    """File with the certificates to trust, where they are the operator's own."""
    timeout_seconds: float = Field(default=15.0, gt=0, le=300)
    """Seconds that a call may take, with its repeats."""
    max_bytes: Size = Field(default=4_000_000, ge=1_000, le=100_000_000)
    """Size that an answer may have, unpacked."""

    @model_validator(mode="after")
    def _check_headers(self) -> Self:
        for name, value in self.headers.items():
            if not _HEADER.fullmatch(name) or not has_form(value, str.isprintable):
                raise ValueError(f"{name!r} cannot be a header: expected letters, digits, -, and one line")
        if self.token is not None and (self.user or self.password is not None):
            raise ValueError("has a token and a user: set one of them")
        return self

    @property
    def sent_headers(self) -> dict[str, str]:
        """The headers of each request."""
        headers = {name: value.get_secret_value() for name, value in self.headers.items()}
        if self.token is not None:
            headers["Authorization"] = f"Bearer {self.token.get_secret_value()}"
        elif self.user:
            pair = f"{self.user}:{_revealed(self.password)}".encode()
            headers["Authorization"] = f"Basic {b64encode(pair).decode()}"
        return headers

    @property
    def secrets(self) -> list[str]:
        """Values that no model may see."""
        values = [*self.headers.values(), self.token, self.password]
        texts = {_revealed(value) for value in values}
        texts |= {value.partition(" ")[2] for value in self.sent_headers.values()}
        return sorted((secret for secret in texts if len(secret) >= _MIN_SECRET_CHARS), key=len, reverse=True)


ServiceT = TypeVar("ServiceT", bound=RestService, default=RestService)


def settled(is_so: bool, result: Any, evidence: str) -> CheckResult:
    """The result of a check that reads the state which its call makes.

    If it is another, the call may still be on its way, or others have changed the state since.
    """
    return CheckResult.happened(result, evidence) if is_so else CheckResult.unknown(evidence)


async def _send_once(request: ClientRequest, send: ClientHandlerType) -> ClientResponse:
    """Hide lost connections from aiohttp, which sends a GET, PUT or DELETE again by itself after one."""
    import aiohttp

    try:
        return await send(request)
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
        raise aiohttp.ClientConnectionError(str(error)) from error


class RestReply(NamedTuple):
    """An answer: its JSON data, None where it is empty, its headers, and its text."""

    data: Any
    headers: Mapping[str, str]
    text: str


class RestClient(Generic[ServiceT]):
    """Calls one service. Its connections are shared by all calls, and no cookies are kept.

    Redirects are not followed, and no connection goes to a cloud's metadata service. A GET is tried again, at
    most twice, where the service is away or overloaded; a change is sent once.
    """

    def __init__(self, place: str, service: ServiceT) -> None:
        self.service = service
        self._place = place
        self._name = place.rpartition(".")[2]
        self._session: ClientSession | None = None

    async def get(self, *path: str, params: Params | None = None) -> Any:
        """The JSON data at a path, of which each part is given by itself, unquoted.

        Raises ToolFailed, in the words of the service, where it refuses, is away, or answers too much.
        """
        return (await self.call("GET", *path, params=params)).data

    async def call(
        self,
        method: str,
        *path: str,
        params: Params | None = None,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
    ) -> RestReply:
        """Send a request, its body as JSON. Raises ToolFailed, InvalidInput for a wrong part of a path.

        A comment on GitHub or GitLab gets the hidden line by which webhooks know those of a mesh.
        """
        url = f"{self.service.url}/{'/'.join(map(_quoted, path))}"
        for name, value in (headers or {}).items():
            if not value.isascii() or not value.isprintable():
                raise InvalidInput(f"{value!r} cannot be sent as {name}", field=name)
        request = _RestCall(method, url, params, mark_request(method, url, body), headers)
        pauses = iter(_PAUSES_SECONDS if method == "GET" else ())
        try:
            async with asyncio.timeout(self.service.timeout_seconds):
                while True:
                    try:
                        return await self._once(request)
                    except _PassingFault as fault:
                        pause = next(pauses, None)
                        if pause is None or fault.retry_after_seconds > _MAX_PAUSE_SECONDS:
                            raise fault.failure from fault.__cause__
                        await asyncio.sleep(max(pause, fault.retry_after_seconds))
        except TimeoutError as error:
            limit = self.service.timeout_seconds
            raise self._failure(request, f"did not answer within {limit:g} seconds") from error

    async def close(self) -> None:
        """Close the connections."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def _once(self, request: _RestCall) -> RestReply:
        import aiohttp
        from yarl import URL

        self._session = self._session or self._opened()
        try:
            async with self._session.request(
                request.method,
                URL(request.url, encoded=True).update_query(request.params or {}),
                json=request.body,
                headers=request.headers,
                allow_redirects=False,
            ) as response:
                text = await self._read(request, response)
        except aiohttp.ClientError as error:
            failure = self._failure(request, f"cannot be reached: {error}")
            raise _PassingFault(failure) from error
        return self._reply(request, response, text)

    def _opened(self) -> ClientSession:
        import ssl

        import aiohttp

        file = self.service.ca_file
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                socket_factory=open_model_socket,
                ssl=True if file is None else ssl.create_default_context(cafile=str(file)),
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={**_HEADERS, **self.service.sent_headers},
            timeout=aiohttp.ClientTimeout(total=None),  # `call` keeps the time
            max_line_size=_MAX_HEADER_BYTES,
            max_field_size=_MAX_HEADER_BYTES,
            middlewares=[_send_once],
        )

    async def _read(self, request: _RestCall, response: ClientResponse) -> str:
        limit = self.service.max_bytes
        data, is_whole = await read_bounded(response, limit)
        if not is_whole:
            response.close()
            remedy = f"Ask for less, or set max_bytes in [{self._place}] of mesh.toml"
            raise self._failure(request, f"answered more than {limit:,} bytes", remedy)
        return self._masked(data.decode(errors="replace"))

    def _reply(self, request: _RestCall, response: ClientResponse, text: str) -> RestReply:
        status = response.status
        if 300 <= status < 400:
            target = urlsplit(response.headers.get("Location", "")).netloc or "another path"
            remedy = f"Set url in [{self._place}] of mesh.toml to the address that it has in the end"
            raise self._failure(
                request, f"answered {status}, a redirect to {target[:_MAX_PART_CHARS]}", remedy
            )
        if status >= 400:
            raise self._refusal(request, response, text)
        try:
            return RestReply(from_json(text) if text.strip() else None, response.headers, text)
        except ValueError as error:
            words = foreign_words(text, max_chars=_MAX_SHOWN)
            raise self._failure(request, f"answered {status} without JSON: {words!r}") from error

    def _refusal(self, request: _RestCall, response: ClientResponse, text: str) -> Exception:
        status, words = response.status, foreign_words(_words(text), max_chars=_MAX_WORDS)
        remedy = ""
        if status in (401, 403):
            remedy = f"The credentials in [{self._place}] of mesh.toml do not permit it"
        failure = self._failure(request, f"answered {status}{f': {words}' if words else ''}", remedy)
        if status not in _PASSING:
            return failure
        seconds = retry_after(response.headers, maximum=_DAY_SECONDS) or 0.0
        if seconds > _MAX_PAUSE_SECONDS:
            failure.remedy = f"Call it again in {seconds:g} seconds"
        return _PassingFault(failure, seconds)

    def _failure(self, request: _RestCall, problem: str, remedy: str = "") -> ToolFailed:
        path = urlsplit(request.url).path[:_MAX_SHOWN]
        message = self._masked(f"{self._name} {problem} ({request.method} {path})")
        if remedy or request.method == "GET" or problem.startswith("answered 4"):
            return ToolFailed(message, remedy=remedy)
        remedy = "It may have taken effect: read the state before you call it again"
        return ToolFailed.without_reply(message, remedy=remedy)

    def _masked(self, text: str) -> str:
        for secret in self.service.secrets:
            text = text.replace(secret, REDACTED).replace(to_json(secret).decode()[1:-1], REDACTED)
        return text


class RestPart(Generic[ServiceT]):
    """Base of the tools over one service: its `@tool` methods, and `check`."""

    def __init__(self, server: RestClient[ServiceT]) -> None:
        self.server = server

    @property
    def target(self) -> str:
        """The address of the service, which an approval is bound to."""
        return self.server.service.url

    async def check(self) -> None:
        """Call the service for `mesh doctor`; raises ToolFailed where it does not answer as it should."""


class RestTools(Toolset):
    """Base of a toolset over services: `parts` has a class of tools for each setting that is a RestService.

    A service without settings is left out, and so are its tools.
    """

    parts: ClassVar[Mapping[str, type[RestPart[Any]]]] = {}

    def __init__(self, settings: ToolSettings) -> None:
        super().__init__(settings)
        self._made = {
            name: part(RestClient(f"tools.{self.name}.{name}", service))
            for name, part in self.parts.items()
            if (service := getattr(self.config, name)) is not None
        }

    async def tools(self) -> Sequence[Tool]:
        """The tools of the services that have settings."""
        return collect_tools(self, *self._made.values(), threads=self.threads)

    @property
    def lack(self) -> str:
        """The tables, where none of the services has settings."""
        if self._made:
            return ""
        if len(self.parts) > 1:
            return f"no table of [tools.{self.name}] of mesh.toml is set: {', '.join(self.parts)}"
        return f"[tools.{self.name}.{next(iter(self.parts), '')}] of mesh.toml is not set"

    async def check(self) -> str:
        """Call each service."""
        await asyncio.gather(*(part.check() for part in self._made.values()))
        return f"{', '.join(self._made)}: all answer" if self._made else f"no tools: {self.lack}"

    async def close(self) -> None:
        """Close the connections."""
        for part in self._made.values():
            await part.server.close()


class _RestCall(NamedTuple):
    method: str
    url: str
    params: Params | None
    body: Any
    headers: Mapping[str, str] | None


class _PassingFault(Exception):
    """A failure that may be over soon."""

    def __init__(self, failure: ToolFailed, retry_after_seconds: float = 0.0) -> None:
        super().__init__(str(failure))
        self.failure = failure
        self.retry_after_seconds = retry_after_seconds


def fits(text: str, patterns: Sequence[str]) -> bool:
    """Whether a host, address or URL fits a pattern of an allow-list, in which * is a label or a port.

    The pattern * fits all.
    """
    return any(
        pattern == "*" or re.fullmatch(re.escape(pattern).replace(r"\*", r"[^.:/@]*"), text)
        for pattern in patterns
    )


def first_rows(name: str, rows: Sequence[Any], limit: int, total: int | None = None) -> dict[str, Any]:
    """The first rows, and how many of the total are `left_out`."""
    left_out = max(len(rows) if total is None else total, len(rows)) - min(len(rows), limit)
    return {name: [*rows[:limit]], **({"left_out": left_out} if left_out else {})}


def _quoted(part: str) -> str:
    """A part of a path, which stays one: no argument leads to another path."""
    if part in ("", ".", "..") or len(part) > _MAX_PART_CHARS or not part.isprintable():
        raise InvalidInput(f"{part[:_MAX_SHOWN]!r} cannot be a part of a path", field="path")
    return quote(part, safe="@:")


def _words(text: str) -> str:
    """The reason in the body of a refusal: of its JSON the message, else its beginning."""
    value: Any = text
    with suppress(ValueError):
        value = from_json(text)
    errors = value.get("errors") if isinstance(value, dict) else None
    if isinstance(errors, list):
        value = "; ".join(_error_text(error) for error in errors) or value
    return " ".join(_error_text(value).split())[:_MAX_WORDS]


def _error_text(value: Any) -> str:
    if isinstance(value, dict):
        texts = (value.get(name) for name in ("error", "message", "detail"))
        value = next((words for words in texts if isinstance(words, str) and words), value)
    return value if isinstance(value, str) else to_json(value).decode()


def _revealed(secret: SecretStr | None) -> str:
    return secret.get_secret_value() if secret is not None else ""
