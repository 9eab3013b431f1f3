"""Requests to other services: the URLs that tasks name, pooled connections, bounds, and pauses."""

from __future__ import annotations

import errno
import re
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr
from pydantic_core import from_json

from meshwright.core import __version__
from meshwright.core.clock import MAX_ASKED_SECONDS, Backoff
from meshwright.core.errors import InvalidInput, MeshError
from meshwright.core.http_calls import is_public, open_public_socket, read_bounded, retry_after
from meshwright.core.messages import Caller, TaskRequest
from meshwright.core.operations import Input
from meshwright.edges.deliveries import standard_key, standard_signature
from meshwright.edges.replies.courier import Undeliverable
from meshwright.mesh.mesh import Mesh

if TYPE_CHECKING:
    from aiohttp import ClientSession


_Networks = Sequence[IPv4Network | IPv6Network]
_MAX_ANSWER_BYTES = 16 * 1024 * 1024
_FIRST_PAUSE_SECONDS = 1.0
_MAX_PAUSE_SECONDS = 300.0
_MAX_IN_FLIGHT = 16
_MAX_RECEIVERS = 1_000  # whose pauses are remembered
_GONE = 410
_CALLS_ALL = re.compile(r"@(?=(?:all|channel|here)\b)", re.IGNORECASE)
_COMMAND = re.compile(r"^([^\S\n]*)/(?=\w)", re.MULTILINE)
_UNSEEN = "\u200b"


class TryLater(MeshError):
    """A receiver that cannot take a reply now; `retry_after_seconds` is the least time to wait.

    With `this_alone` it may take others meanwhile.
    """

    def __init__(self, message: str, retry_after_seconds: float = 0.0, *, this_alone: bool = False) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds
        self.this_alone = this_alone


class Receivers:
    """Leaves receivers alone that did not answer or asked for it, and bounds what is on its way to others."""

    def __init__(self) -> None:
        self._until: dict[str, float] = {}
        self._backoffs: dict[str, Backoff] = {}
        self._in_flight: Counter[str] = Counter()

    @contextmanager
    def sending(self, receiver: str) -> Iterator[None]:
        """Send to a receiver within the block. Raises TryLater while it is left alone.

        A TryLater of the block leaves it alone, longer after each failure in a row; a success ends that.
        """
        remaining = self._until.get(receiver, 0.0) - time.monotonic()
        if remaining > 0:
            raise TryLater("it is left alone after an earlier failure", remaining)
        try:
            yield
        except TryLater as error:
            if not error.this_alone:
                self._failed(receiver, error.retry_after_seconds)
            raise
        self._forget(receiver)

    @contextmanager
    def bounded(self, name: str) -> Iterator[None]:
        """Counts a reply of a tenant or source while the block runs. Raises TryLater where it has too many.

        So a slow receiver of one holds up no other.
        """
        if self._in_flight[name] >= _MAX_IN_FLIGHT:
            raise TryLater(f"{_MAX_IN_FLIGHT} earlier ones of {name} are still on their way", this_alone=True)
        self._in_flight[name] += 1
        try:
            yield
        finally:
            self._in_flight -= Counter([name])  # forgets those that are at 0

    def _failed(self, receiver: str, least_seconds: float) -> None:
        now, until = time.monotonic(), self._until.get(receiver, 0.0)
        if until <= now:  # failures of one time count once
            backoff = self._backoffs.setdefault(receiver, Backoff(_FIRST_PAUSE_SECONDS, _MAX_PAUSE_SECONDS))
            until = now + backoff.next()
        self._until[receiver] = max(until, now + least_seconds)
        if len(self._until) > _MAX_RECEIVERS:
            self._forget(next(iter(self._until)))

    def _forget(self, receiver: str) -> None:
        self._until.pop(receiver, None)
        self._backoffs.pop(receiver, None)


class HttpReply(NamedTuple):
    """A server's answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class HttpPool:
    """Connections to other services, which stay open between requests. A part of a component.

    With `networks` they lead to public addresses by https, or to these networks: the address is checked where
    a connection is opened, so that no name can lead elsewhere.
    """

    def __init__(self, *, timeout_seconds: float = 30.0, networks: _Networks | None = None) -> None:
        self._timeout_seconds = timeout_seconds
        self._networks = networks
        self._sessions: dict[bool, ClientSession] | None = {}

    async def start(self) -> None:
        """Open no connection before there is a request."""
        self._sessions = {}

    async def stop(self) -> None:
        """Close all connections. Idempotent."""
        sessions, self._sessions = self._sessions or {}, None
        for session in sessions.values():
            await session.close()

    def session(self, url: str) -> ClientSession:
        """Returns the session for a URL. Raises TryLater once the pool has stopped."""
        import aiohttp

        if self._sessions is None:
            raise TryLater("The mesh is stopping")
        is_https = url.startswith("https:")
        if is_https not in self._sessions:
            guard = None
            if self._networks is not None:
                may_reach = partial(_may_reach, self._networks, is_https=is_https)
                guard = partial(open_public_socket, allowed=may_reach)
            self._sessions[is_https] = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(socket_factory=guard),
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=self._timeout_seconds),
                headers={"User-Agent": f"meshwright/{__version__}"},
            )
        return self._sessions[is_https]

    async def request(
        self, method: str, url: str, *, max_bytes: int = _MAX_ANSWER_BYTES, **options: Any
    ) -> HttpReply:
        """Send a request and read the beginning of the answer; redirects are not followed.

        Raises TryLater where there is none, Undeliverable for an address that the networks do not allow.
        """
        import aiohttp
        from yarl import URL

        try:
            address = URL(url, encoded=True)  # as it is: a %2F is not a slash
            session = self.session(url)
            async with session.request(method, address, allow_redirects=False, **options) as response:
                body = (await read_bounded(response, max_bytes))[0] if max_bytes else b""
                return HttpReply(response.status, response.headers, body)
        except TimeoutError:
            raise TryLater("it did not answer in time") from None
        except aiohttp.ClientError as error:
            is_refused = isinstance(error, aiohttp.ClientConnectorError) and error.errno == errno.EACCES
            if is_refused and self._networks is not None:
                server = urlsplit(url).netloc
                raise Undeliverable(
                    f"{server} leads to an address that push_networks does not allow"
                ) from None
            raise TryLater(f"it cannot be reached: {type(error).__name__}") from error

    async def post_signed(self, url: str, keys: Sequence[bytes], message_id: str, body: bytes) -> None:
        """POSTs a message, signed with each key by Standard Webhooks. Raises Undeliverable, TryLater."""
        now = int(time.time())
        headers = {
            "Content-Type": "application/json",
            "webhook-id": message_id,
            "webhook-timestamp": str(now),
            "webhook-signature": " ".join(standard_signature(key, message_id, now, body) for key in keys),
        }
        answer = await self.request("POST", url, max_bytes=0, data=body, headers=headers)
        server = urlsplit(url).netloc
        if answer.status == _GONE:
            raise Undeliverable(f"{server} answered 410: it wants no more")
        if not 200 <= answer.status < 300:
            raise TryLater(f"{server} answered {answer.status}", asked_pause(answer) or 0.0)


def _may_reach(networks: _Networks, address: str, *, is_https: bool) -> bool:
    """Whether a connection may go to an IP address: plain http only to the networks."""
    if is_https and is_public(address):
        return True
    return any(ip_address(address) in network for network in networks)


def asked_pause(answer: HttpReply) -> float | None:
    """Returns the seconds that a server asks for, at most a minute; None where it does not limit us."""
    if (seconds := retry_after(answer.headers)) is not None:
        return seconds
    if answer.status not in (403, 429):
        return None
    if answer.headers.get("X-RateLimit-Remaining") == "0":
        reset = answer.headers.get("X-RateLimit-Reset", "")
        remaining = float(reset) - time.time() if reset.isdecimal() else MAX_ASKED_SECONDS
        return min(max(remaining, 1.0), MAX_ASKED_SECONDS)
    limited = answer.status == 429 or b"rate limit" in answer.body[:4096].lower()
    return MAX_ASKED_SECONDS if limited else None  # GitHub's advice for a limit that does not say its end


def harmless(text: str) -> str:
    """Returns a text that reads the same, and neither calls everybody nor gives a server commands.

    GitLab carries out lines like `/merge` with the rights of the token that posts them.
    """
    return _COMMAND.sub(r"\1\\/", _CALLS_ALL.sub(f"@{_UNSEEN}", text))


def parse_json(answer: HttpReply) -> dict[str, Any]:
    """Returns the JSON object of an answer; an empty one in place of anything else."""
    try:
        document = from_json(answer.body)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


_MAX_URL_CHARS = 2_000


def usable_url(url: str) -> str:
    """A URL that outcomes can be sent to. Raises ValueError."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0:
        raise ValueError("expected a URL with https://, like https://example.com/hook")
    if parts.username is not None or parts.fragment or not url.isprintable() or " " in url:
        raise ValueError("the URL holds credentials, a fragment or spaces: leave them out")
    return url


def _usable_secret(secret: SecretStr) -> SecretStr:
    standard_key(secret.get_secret_value())
    return secret


class Notify(Input):
    """The URL that gets the outcome of a task, and the secret that signs it (`whsec_...`)."""

    url: Annotated[str, Field(max_length=_MAX_URL_CHARS), AfterValidator(usable_url)]
    secret: Annotated[SecretStr, AfterValidator(_usable_secret)]


class NotifyingRequest(TaskRequest):
    """A task, and a URL that gets its outcome."""

    notify: Notify | None = Field(
        default=None,
        exclude=True,
        description="`url` and `secret` (`whsec_...`) for the signed outcome, sent at least once.",
    )


class Notifier(ABC):
    """The component that sends outcomes to the URLs that tasks name."""

    @abstractmethod
    def check_notify(self, notify: Notify) -> None:
        """Raises InvalidInput where the settings do not allow it."""

    @abstractmethod
    async def notify(self, caller: Caller, task_id: str, notify: Notify) -> None:
        """Have the outcome of a task sent, also of one that has ended; durable when this returns."""


def get_notifier(mesh: Mesh) -> Notifier:
    """The notifier of a mesh. Raises InvalidInput where it has none."""
    try:
        return mesh.get(Notifier)
    except LookupError:
        raise not_allowed() from None


def not_allowed() -> InvalidInput:
    """The error that tasks may name no URL."""
    return InvalidInput(
        "Tasks of this mesh may not name a URL",
        remedy="Set notify = true in [webhooks] of mesh.toml, or follow the task's events",
        field="notify",
    )
