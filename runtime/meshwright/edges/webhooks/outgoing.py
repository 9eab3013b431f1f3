"""What the senders of webhooks share: requests within limits, and pauses for servers that ask for one."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from meshwright import __version__
from meshwright.core.clock import Backoff
from meshwright.core.errors import MeshError

if TYPE_CHECKING:
    from aiohttp import ClientResponse, ClientSession

USER_AGENT = f"meshwright/{__version__}"
MAX_ANSWER_BYTES = 16 * 1024 * 1024
_CHUNK_BYTES = 65_536
_FIRST_PAUSE_SECONDS = 1.0
_MAX_PAUSE_SECONDS = 300.0
_MAX_IN_FLIGHT = 16
_MAX_RECEIVERS = 1_000  # whose pauses are remembered
_NO_LIMIT_SECONDS = 60.0  # GitHub's advice for a rate limit that does not say when it ends
_MAX_RETRY_SECONDS = 6 * 3600.0
_CALLS_ALL = re.compile(r"@(?=(?:all|channel|here)\b)", re.IGNORECASE)
_COMMAND = re.compile(r"^([^\S\n]*)/(?=\w)", re.MULTILINE)
_UNSEEN = "\u200b"


class TryLater(MeshError):
    """A receiver that cannot take a reply now; `retry_after_seconds` is the least time to wait."""

    def __init__(self, message: str, retry_after_seconds: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class Pauses:
    """Leaves receivers alone that did not answer, or asked for it: nothing is sent to them meanwhile."""

    def __init__(self) -> None:
        self._until: dict[str, float] = {}
        self._backoffs: dict[str, Backoff] = {}

    def check(self, receiver: str) -> None:
        """Raise TryLater while a receiver is left alone."""
        left = self._until.get(receiver, 0.0) - time.monotonic()
        if left > 0:
            raise TryLater("it is left alone after an earlier failure", left)

    def failed(self, receiver: str, least_seconds: float = 0.0) -> None:
        """Leave a receiver alone, longer after each failure in a row; those of one time count once."""
        now, until = time.monotonic(), self._until.get(receiver, 0.0)
        if until <= now:
            backoff = self._backoffs.setdefault(receiver, Backoff(_FIRST_PAUSE_SECONDS, _MAX_PAUSE_SECONDS))
            until = now + backoff.next()
        self._until[receiver] = max(until, now + least_seconds)
        if len(self._until) > _MAX_RECEIVERS:
            self.succeeded(next(iter(self._until)))

    def succeeded(self, receiver: str) -> None:
        """Leave it alone no more."""
        self._until.pop(receiver, None)
        self._backoffs.pop(receiver, None)


class InFlight:
    """Bounds the replies of one tenant or source that are on their way: a slow one holds up no other."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    @contextmanager
    def one_of(self, name: str) -> Iterator[None]:
        """Count one for as long as the block runs. Raises TryLater where there are too many."""
        if self._counts[name] >= _MAX_IN_FLIGHT:
            raise TryLater(f"{_MAX_IN_FLIGHT} earlier ones of {name} are still on their way")
        self._counts[name] += 1
        try:
            yield
        finally:
            self._counts[name] -= 1


def harmless(text: str) -> str:
    """Returns a text that reads the same, and neither calls everybody nor gives a server commands.

    GitLab carries out lines like `/merge` with the rights of the token that posts them.
    """
    return _COMMAND.sub(r"\1\\/", _CALLS_ALL.sub(f"@{_UNSEEN}", text))


class HttpReply(NamedTuple):
    """What a server answered."""

    status: int
    headers: Mapping[str, str]
    body: bytes


async def request(
    session: ClientSession, method: str, url: str, *, max_bytes: int, **options: Any
) -> HttpReply:
    """Send a request and read the beginning of the answer; redirects are not followed.

    Raises TryLater where there is none.
    """
    import aiohttp
    from yarl import URL

    try:
        address = URL(url, encoded=True)  # as it is: a %2F is not a slash
        async with session.request(method, address, allow_redirects=False, **options) as response:
            return HttpReply(response.status, response.headers, await _beginning(response, max_bytes))
    except TimeoutError:
        raise TryLater("it did not answer in time") from None
    except aiohttp.ClientError as error:
        raise TryLater(f"it cannot be reached: {type(error).__name__}") from error


async def _beginning(response: ClientResponse, max_bytes: int) -> bytes:
    data = bytearray()
    while len(data) < max_bytes and (chunk := await response.content.read(min(_CHUNK_BYTES, max_bytes))):
        data += chunk
    return bytes(data)


def asked_pause(answer: HttpReply) -> float | None:
    """Returns the seconds that a server asks for; None where it does not limit us."""
    after = answer.headers.get("Retry-After", "")
    if after.isdecimal():
        return min(float(after), _MAX_RETRY_SECONDS)
    if answer.status not in (403, 429):
        return None
    if answer.headers.get("X-RateLimit-Remaining") == "0":
        reset = answer.headers.get("X-RateLimit-Reset", "")
        left = float(reset) - time.time() if reset.isdecimal() else _NO_LIMIT_SECONDS
        return min(max(left, 1.0), _MAX_RETRY_SECONDS)
    limited = answer.status == 429 or b"rate limit" in answer.body[:4096].lower()
    return _NO_LIMIT_SECONDS if limited else None
