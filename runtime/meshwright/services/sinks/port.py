"""The port to a sink: it takes the events of a task one after another, and may get one again."""

from __future__ import annotations

import base64
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple, Protocol

from meshwright.core.errors import MeshError
from meshwright.core.messages import Event
from meshwright.core.redaction import foreign_words
from meshwright.core.task_events import TaskScored
from meshwright.edges.outgoing import HttpPool, HttpReply, TryLater, asked_pause, json_of
from meshwright.edges.replies.courier import Undeliverable
from meshwright.services.sinks.settings import SinkSettings

SCORED = "task.scored"
"""The event of a score that a task was given."""
_REFUSALS = (400, 413, 422)
_MAX_REASON = 200


class Refused(MeshError):
    """A sink will never take an event."""


class Score(NamedTuple):
    """A score that a task was given; its comment may be empty."""

    name: str
    value: float
    comment: str
    by: str


def score_of(event: Event) -> Score | None:
    """Returns the score of an event; None for one whose contents were erased."""
    scored = TaskScored.read(event)
    if scored is None or not scored.name or scored.value is None:
        return None
    return Score(scored.name, float(scored.value), scored.comment, scored.by)


class Sink(Protocol):
    """A service that gets events. Taking one again changes nothing there."""

    event_types: Collection[str]
    parallel: int
    """How many tasks' events it takes side by side."""

    async def take(self, event: Event) -> None:
        """Returns when the service has it. Raises Refused; any other error is a reason to try again."""
        ...

    async def check(self) -> str:
        """Returns a sentence if the service lets us in. Raises MeshError."""
        ...


class SinkServer:
    """The server of a sink: its address, our key, and its errors."""

    def __init__(self, name: str, settings: SinkSettings, http: HttpPool) -> None:
        self._name = name
        self.shown = settings.url.rstrip("/")
        """Its address."""
        self._http = http
        self._headers = _authorization(settings)
        key = "" if settings.key is None else settings.key.get_secret_value()
        credentials = self._headers.get("Authorization", "").rpartition(" ")[2]
        self._secrets = [text for text in (key, key.partition(":")[2], credentials) if text]

    async def ask(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        """Returns the JSON of an answer. Raises Refused for 400, 413 and 422, TryLater for all else."""
        answer = await self.request(method, path, **options)
        if answer.status in _REFUSALS:
            raise Refused(self.problem(answer))
        if not 200 <= answer.status < 300:
            raise TryLater(self.problem(answer), asked_pause(answer) or 0.0)
        return json_of(answer)

    async def request(self, method: str, path: str, **options: Any) -> HttpReply:
        """Returns an answer, whatever its status. Raises TryLater where there is none."""
        try:
            return await self._http.request(method, f"{self.shown}{path}", headers=self._headers, **options)
        except Undeliverable:
            raise TryLater(
                f"{self.shown} leads to a private address, or goes without TLS, which networks of "
                f"[sinks.{self._name}] do not allow"
            ) from None

    def problem(self, answer: HttpReply) -> str:
        """Returns why a server did not do something, in a few words."""
        words = foreign_words(str(json_of(answer).get("message") or ""), self._secrets)
        return f"{self.shown} answered {answer.status}{f': {words}' if words else ''}"[:_MAX_REASON]


def _authorization(settings: SinkSettings) -> Mapping[str, str]:
    if settings.key is None:
        return {}
    key = settings.key.get_secret_value()
    if settings.kind == "agenta":
        return {"Authorization": f"ApiKey {key}"}
    if ":" in key:
        return {"Authorization": f"Basic {base64.b64encode(key.encode()).decode()}"}
    return {"Authorization": f"Bearer {key}"}
