"""Requests to a peer: its card, and the operations of A2A by the binding that it has, within limits."""

from __future__ import annotations

import asyncio
import errno
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote, urlencode

from pydantic import BaseModel, ValidationError
from pydantic_core import from_json

from meshwright import ToolFailed
from meshwright.core.http_calls import open_model_socket, read_bounded
from meshwright.core.redaction import foreign_words
from meshwright.parts.remote.settings import RemotePeer
from meshwright.parts.remote.wire import AgentCard, AgentInterface, Document

if TYPE_CHECKING:
    from aiohttp import ClientSession

TASK_NOT_FOUND, UNSUPPORTED, INVALID_PARAMS = -32001, -32004, -32602
_REASONS = {
    "TASK_NOT_FOUND": TASK_NOT_FOUND,
    "UNSUPPORTED_OPERATION": UNSUPPORTED,
    "INVALID_PARAMS": INVALID_PARAMS,
}
_OVERLOADED = frozenset({429, 503})  # statuses with which a protocol's error says that nothing was done
_DOUBTFUL = frozenset({408, 425})  # beside all from 500
_MAX_HEADER_BYTES = 16_380
_HEADERS = {"User-Agent": "meshwright", "Accept-Encoding": "gzip, deflate"}
_MAX_WORDS = 1_000
_ModelT = TypeVar("_ModelT", bound=BaseModel)


class PeerFailed(ToolFailed):
    """A request to a peer that failed.

    `is_away` says that a later one may succeed, `is_in_doubt` that it may have taken effect. `rpc_code` is
    the code of JSON-RPC of an error of the protocol.
    """

    def __init__(self, problem: str, *, remedy: str = "", is_away: bool = False, rpc_code: int = 0) -> None:
        super().__init__(problem, remedy=remedy)
        self.is_away = is_away
        self.rpc_code = rpc_code


class PeerClient:
    """Sends requests to one peer, without cookies and redirects, and to no metadata service of a cloud."""

    def __init__(self, name: str, settings: RemotePeer) -> None:
        self._place = f"remote.{name}"
        self.name, self.settings = name, settings
        self._session: ClientSession | None = None

    def words(self, text: str) -> str:
        """The words of the peer as one line, without secrets."""
        return foreign_words(text, self.settings.secrets, max_chars=_MAX_WORDS)

    async def close(self) -> None:
        """Close the connections. Idempotent."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def card(self) -> AgentCard:
        """Read the card. Raises PeerFailed."""
        url = f"{self.settings.a2a}/.well-known/agent-card.json"
        return self.parse(AgentCard, await self._json("GET", url), "a card")

    async def call(self, interface: AgentInterface, name: str, params: Document) -> Document:
        """Call an operation; returns its result. Raises PeerFailed."""
        if interface.protocol_binding == "JSONRPC":
            if interface.tenant:
                params = {**params, "tenant": interface.tenant}
            body = {"jsonrpc": "2.0", "id": 1, "method": name, "params": params}
            document = await self._json("POST", interface.url, body)
            if isinstance(document.get("error"), dict):
                raise self._refusal(document["error"], 200)
            result = document.get("result")
        else:
            result = await self._json(*_rest_request(interface, name, params))
        if not isinstance(result, dict):
            raise self._in_doubt("answered without a result")
        return result

    async def fetch(self, url: str) -> bytes:
        """Read a file of the peer. Raises PeerFailed."""
        status, data, _ = await self._request("GET", url, None, accept="*/*")
        if status != 200:
            raise self._failed(f"answered {status} for a file")
        return data

    async def _json(self, method: str, url: str, body: Document | None = None) -> Document:
        status, data, location = await self._request(method, url, body)
        if 300 <= status < 400:
            problem = f"answered {status}, a redirect to {self.words(location)[:200] or 'nowhere'}"
            raise self._failed(problem, f"Set a2a in [{self._place}] to the address that it has in the end")
        try:
            document = from_json(data)
        except ValueError:
            document = None
        error = document.get("error") if isinstance(document, dict) else None
        if isinstance(error, dict) and (status >= 400 or method == "GET"):
            raise self._refusal(error, status)
        if status >= 500 or status in _DOUBTFUL or (status < 400 and not isinstance(document, dict)):
            words = self.words(data[:2_000].decode(errors="replace"))[:200]
            raise self._in_doubt(f"answered {status}{f': {words!r}' if words else ' without JSON'}")
        if status >= 400:
            remedy = f"Its key is that of [{self._place}]" if status in (401, 403) else ""
            raise self._failed(f"answered {status}", remedy, is_away=True)
        assert isinstance(document, dict)
        return document

    async def _request(
        self, method: str, url: str, body: Document | None, accept: str = "application/json"
    ) -> tuple[int, bytes, str]:
        import aiohttp

        seconds, limit = self.settings.timeout_seconds, self.settings.max_bytes
        self._session = self._session or self._opened()
        try:
            async with (
                asyncio.timeout(seconds),
                self._session.request(
                    method, url, json=body, headers={"Accept": accept}, allow_redirects=False
                ) as response,
            ):
                data, is_whole = await read_bounded(response, limit)
                if not is_whole:
                    response.close()
                    failure = self._failed(
                        f"answered more than {limit:,} bytes", f"Set max_bytes in [{self._place}]"
                    )
                    failure.is_in_doubt = True
                    raise failure
                return response.status, data, response.headers.get("Location", "")
        except TimeoutError as error:
            raise self._in_doubt(f"did not answer within {seconds:g} seconds") from error
        except aiohttp.ClientConnectorError as error:  # nothing was sent
            is_refused = getattr(error.os_error, "errno", None) == errno.EACCES
            raise self._failed(f"cannot be reached: {error}", is_away=not is_refused) from error
        except (aiohttp.ClientError, ValueError) as error:
            raise self._in_doubt(f"broke off: {error or type(error).__name__}") from error

    def _opened(self) -> ClientSession:
        import ssl

        import aiohttp

        file = self.settings.ca_file
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                socket_factory=open_model_socket,
                ssl=True if file is None else ssl.create_default_context(cafile=str(file)),
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={**_HEADERS, "A2A-Version": "1.0", **self.settings.sent_headers},
            timeout=aiohttp.ClientTimeout(total=None),  # each request keeps the time
            max_line_size=_MAX_HEADER_BYTES,
            max_field_size=_MAX_HEADER_BYTES,
        )

    def parse(self, model: type[_ModelT], document: Any, noun: str) -> _ModelT:
        """Read a document of the peer. Raises PeerFailed, in doubt."""
        try:
            return model.model_validate(document)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            place = ".".join(map(str, first["loc"])) or "it"
            raise self._in_doubt(f"answered {noun} that is none: {place}: {first['msg']}") from error

    def _refusal(self, error: Document, status: int) -> PeerFailed:
        """An error of the protocol."""
        code = error.get("code")
        details = error.get("details")
        for detail in details if isinstance(details, list) else ():
            if isinstance(detail, dict) and isinstance(detail.get("reason"), str):
                code = _REASONS.get(detail["reason"], code)
        words = self.words(str(error.get("message") or "it does not say why"))
        failure = self._failed(f"refuses: {words}")
        failure.rpc_code = code if isinstance(code, int) else 0
        failure.is_away = status in _OVERLOADED
        if status >= 500 and not failure.is_away:
            failure.is_away = failure.is_in_doubt = True
        return failure

    def _failed(self, problem: str, remedy: str = "", *, is_away: bool = False) -> PeerFailed:
        return PeerFailed(self.words(f"{self.name} {problem}"), remedy=remedy, is_away=is_away)

    def _in_doubt(self, problem: str) -> PeerFailed:
        failure = self._failed(problem, is_away=True)
        failure.is_in_doubt = True
        return failure


def _rest_request(interface: AgentInterface, name: str, params: Document) -> tuple[str, str, Document | None]:
    """The method, address and body of an operation in HTTP+JSON."""
    tenant = f"/{quote(interface.tenant, safe='')}" if interface.tenant else ""
    base = f"{interface.url.rstrip('/')}{tenant}"
    task = quote(str(params.get("id", "")), safe="")
    query = urlencode({key: value for key, value in params.items() if key != "id"})
    match name:
        case "SendMessage":
            return "POST", f"{base}/message:send", params
        case "CancelTask":
            return "POST", f"{base}/tasks/{task}:cancel", {}
        case "GetTask":
            return "GET", f"{base}/tasks/{task}?{query}", None
        case _:
            return "GET", f"{base}/tasks?{query}", None
