"""A2A 1.0 in JSON, as a client reads it: cards, tasks and messages of peers."""

from __future__ import annotations

import base64
import binascii
import re
from typing import Annotated, Any, NamedTuple
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from pydantic.alias_generators import to_camel

from meshwright import File, ToolFailed
from meshwright.core.encoding import with_integers
from meshwright.core.ids import ID_PATTERN
from meshwright.kit import InvalidInput
from meshwright.parts.remote.settings import IDEMPOTENT

Document = dict[str, Any]
BINDINGS = ("JSONRPC", "HTTP+JSON")
"""The bindings that are spoken, the preferred one first."""
_VERSION = "1."
_DONE = "TASK_STATE_COMPLETED"
REJECTED = "TASK_STATE_REJECTED"
ENDED = frozenset({_DONE, REJECTED, "TASK_STATE_FAILED", "TASK_STATE_CANCELED"})
"""The states of tasks that have ended."""
ASKS = frozenset({"TASK_STATE_INPUT_REQUIRED", "TASK_STATE_AUTH_REQUIRED"})
"""The states of tasks that wait for their client."""


class _Peers(BaseModel):
    """Base of documents of peers: unknown fields are ignored, and null is the default."""

    model_config = ConfigDict(alias_generator=to_camel, extra="ignore")

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {name: field for name, field in value.items() if field is not None or name == "data"}


# Cards


class AgentInterface(_Peers):
    """An address of a peer."""

    url: str
    """The address."""
    protocol_binding: str = ""
    """The binding that is spoken there."""
    protocol_version: str = ""
    """The version of A2A that is spoken there."""
    tenant: str = ""
    """The tenant that requests name."""


class AgentSkill(_Peers):
    """A skill of a peer."""

    id: str = Field(max_length=1_000)
    """Its id."""


class _Extension(_Peers):
    uri: str = ""
    required: bool = False


class _Capabilities(_Peers):
    extensions: list[_Extension] = []


class AgentCard(_Peers):
    """The card of a peer."""

    name: str = ""
    """Its name for people."""
    description: str = ""
    """Its purpose."""
    supported_interfaces: list[AgentInterface] = []
    """Its addresses."""
    protocol_version: str = ""
    """Set in cards before 1.0 alone."""
    skills: Annotated[list[AgentSkill], Field(max_length=1_000)] = []
    """Its skills."""
    capabilities: _Capabilities = _Capabilities()
    """The parts of the protocol that it has."""

    @property
    def is_idempotent(self) -> bool:
        """Whether a message that is sent again is the same task, or the same answer."""
        return any(extension.uri == IDEMPOTENT for extension in self.capabilities.extensions)

    def choose(self, address: str) -> AgentInterface:
        """Returns the interface to use. Raises ToolFailed where none can be, or leads to another origin."""
        interfaces = self.supported_interfaces
        for extension in self.capabilities.extensions:
            if extension.required and extension.uri != IDEMPOTENT:
                raise ToolFailed(f"it requires the extension {extension.uri[:200]}, which is not spoken here")
        usable = [one for one in interfaces if one.protocol_version.startswith(_VERSION)]
        usable = [one for binding in BINDINGS for one in usable if one.protocol_binding == binding]
        if not usable:
            versions = {f"{one.protocol_version} by {one.protocol_binding}"[:50] for one in interfaces}
            versions = versions or {self.protocol_version[:50] or "no version that its card names"}
            raise ToolFailed(
                f"it speaks A2A {', '.join(sorted(versions)[:5])}, and Meshwright 1.0 by JSONRPC or HTTP+JSON"
            )
        own = [one for one in usable if is_of_origin(one.url, address)]
        if not own:
            raise ToolFailed(
                f"its card leads to {_origin(usable[0].url)[:200]}, another origin than {_origin(address)}",
                remedy="Set a2a to the address that its card has, if you trust it",
            )
        return own[0]


def is_of_origin(url: str, address: str) -> bool:
    """Whether a URL has the scheme, host and port of an address."""
    return _origin(url) == _origin(address)


def _origin(url: str) -> str:
    try:
        parts = urlsplit(url)
        port = parts.port or {"https": 443, "http": 80}.get(parts.scheme)
    except ValueError:
        return "an address that is none"
    return f"{parts.scheme}://{parts.hostname}:{port}"


# Tasks


class PeerPart(_Peers):
    """A part of a message or an artifact."""

    text: str | None = None
    """A text."""
    raw: str | None = None
    """The bytes of a file, in base64."""
    url: str | None = None
    """The address of a file."""
    data: Annotated[Any, AfterValidator(with_integers)] = None
    """Any JSON."""
    filename: str = ""
    """The name of the file."""
    media_type: str = ""
    """The media type."""


class PeerMessage(_Peers):
    """A message of a peer, or of its history."""

    message_id: str = ""
    """Its id."""
    task_id: str = ""
    """The task that it belongs to."""
    context_id: str = ""
    """The context that it belongs to."""
    parts: list[PeerPart] = []
    """The content."""

    @property
    def text(self) -> str:
        """The parts that are text, in lines."""
        return "\n".join(part.text for part in self.parts if part.text is not None)


class _PeerStatus(_Peers):
    state: str = "TASK_STATE_UNSPECIFIED"
    message: PeerMessage = PeerMessage()
    timestamp: str = ""


class _Artifact(_Peers):
    parts: list[PeerPart] = []


class PeerTask(_Peers):
    """A task of a peer as it stands."""

    id: Annotated[str, Field(min_length=1, max_length=1_000)]
    """Its id."""
    context_id: str = Field(default="", max_length=1_000)
    """The context that it belongs to."""
    status: _PeerStatus = _PeerStatus()
    """Its state, with a message."""
    artifacts: list[_Artifact] = []
    """Its results so far."""
    history: list[PeerMessage] = []
    """Its messages, as far as the peer shows them."""
    metadata: Document = {}
    """Further data of the peer."""

    @property
    def state(self) -> str:
        """Its state."""
        return self.status.state

    @property
    def content(self) -> list[PeerPart]:
        """The parts of its artifacts, or of its last message where it has none."""
        parts = [part for artifact in self.artifacts for part in artifact.parts]
        return parts or self.status.message.parts

    @property
    def questions(self) -> list[Document]:
        """The questions of another mesh, with their keys and schemas; none of other peers."""
        for part in self.status.message.parts:
            if isinstance(part.data, dict) and isinstance(questions := part.data.get("questions"), list):
                return [one for one in questions if isinstance(one, dict) and isinstance(one.get("key"), str)]
        return []


class PeerContent(NamedTuple):
    """The content of parts, as a mesh has it."""

    text: str
    """The texts, in lines."""
    data: list[Any]
    """The data."""
    files: list[File]
    """The files."""


def read_content(parts: list[PeerPart]) -> PeerContent:
    """Returns the content of parts. A file that is none is named in the text."""
    texts, data, files = list[str](), list[Any](), list[File]()
    for number, part in enumerate(parts, start=1):
        name = part.filename or f"file-{number}"
        try:
            if part.text is not None:
                texts.append(part.text)
            elif part.raw is not None:
                content = base64.b64decode(part.raw.translate({45: "+", 95: "/"}) + "==")
                files.append(File(name=name, media_type=part.media_type, data=content))
            elif part.url is not None:
                files.append(File(name=name, media_type=part.media_type, url=part.url))
            elif part.data is not None:
                data.append(part.data)
        except (binascii.Error, ValueError, InvalidInput):
            texts.append(f"[{name[:200]}: no usable content]")
    return PeerContent("\n".join(texts), data, files)


def is_skill_name(skill: str) -> bool:
    """Whether a skill can be a capability by its id."""
    return re.fullmatch(ID_PATTERN, skill) is not None
