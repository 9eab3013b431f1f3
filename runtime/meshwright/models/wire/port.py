"""The port to a wire: a client's request is read into a call, and the call writes its answer."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Collection, Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any, Protocol

from meshwright.core.errors import MeshError
from meshwright.models.port import ModelReply, ModelRequest
from meshwright.models.usage import prompt_size
from meshwright.models.wire.stream import StreamedCall

_BYTES_PER_TOKEN = 3  # rather too many tokens than too few
_MAX_NAMES = 32
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")


def plain_names(names: Iterable[str]) -> tuple[str, ...]:
    """Returns field names of a client's request for an event, which must hold no contents.

    Names that no API has are one `?`.
    """
    return tuple(dict.fromkeys(name if _NAME.fullmatch(name) else "?" for name in names))[:_MAX_NAMES]


def tokens_in(request: ModelRequest) -> int:
    """Returns about how many tokens a request has: no provider is asked."""
    prompt = prompt_size(request)
    return -(-(prompt.size + prompt.media) // _BYTES_PER_TOKEN)


def find_group(name: str, groups: Collection[str], names: Mapping[str, str]) -> str | None:
    """Returns the group that a client means by the name of a model; None where there is none.

    `names` has groups by patterns of names that are no groups; the first that fits counts.
    """
    candidates = [name, *(group for pattern, group in names.items() if fnmatchcase(name, pattern))]
    existing = (name for name in candidates[:2] if any(fnmatchcase(name, group) for group in groups))
    return next(existing, None)


class WireCall(Protocol):
    """One call as a client asked for it. It answers once, whole or streamed.

    `request` has an empty context: the caller replaces `context` and `user`.
    """

    @property
    def request(self) -> ModelRequest:
        """The call to make."""

    @property
    def streams(self) -> bool:
        """Whether the client wants the answer in pieces."""

    @property
    def passed_over(self) -> tuple[str, ...]:
        """The fields of the client's request that have no effect here."""

    def name(self, answer_id: str, created: int) -> None:
        """Gives the answer its id, and the time that it says, for a client that is answered again alike."""

    def whole(self, reply: ModelReply) -> dict[str, Any]:
        """Returns the answer at once, as a document."""

    def frames(self, call: StreamedCall) -> AsyncGenerator[bytes]:
        """Yields the answer as server-sent events; an error ends it in the words of the SDK."""


class Dialect(Protocol):
    """An API of calls of models. `path` is the path of its route.

    `request_id_header` names the header of each answer by which people and logs find its request.
    """

    path: str
    request_id_header: str

    def read(self, body: Mapping[str, Any], headers: Mapping[str, str]) -> WireCall:
        """Reads a request. Raises InvalidInput with the field that is wrong."""

    def error(self, error: MeshError) -> tuple[int, dict[str, str], dict[str, Any]]:
        """Returns status, headers and document of an error."""
