"""The port to a sink, which takes events one after another and may get one again; Langfuse and Agenta."""

from __future__ import annotations

import base64
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any, NamedTuple, Protocol

from meshwright import Event, MeshError
from meshwright.agents.prompts.prompt import fields_and_body
from meshwright.component import Undeliverable, parse_prompt
from meshwright.core.redaction import foreign_words, redact
from meshwright.core.task_events import TaskScored
from meshwright.edges.outgoing_requests import HttpPool, HttpReply, TryLater, asked_pause, parse_json
from meshwright.kit import NotFound, derived_id
from meshwright.parts.sinks.settings import SinkSettings

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


def read_score(event: Event) -> Score | None:
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
        return parse_json(answer)

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
        words = foreign_words(str(parse_json(answer).get("message") or ""), self._secrets)
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


class LangfuseSink:
    """Gives the trace of a task, which Langfuse gets over OTLP, the task's scores.

    A score has the id of its event, by which Langfuse writes it once: https://api.reference.langfuse.com
    """

    event_types: Collection[str] = (SCORED,)
    parallel = 1

    def __init__(self, server: SinkServer, *, contents: bool) -> None:
        self._server = server
        self._contents = contents

    async def take(self, event: Event) -> None:
        """Write a score. Raises Refused, TryLater."""
        if event.trace_id is None:
            raise Refused("the task has no trace: [tracing] enabled = false")
        if (score := read_score(event)) is None:
            return
        body = {
            "id": derived_id(event.id),
            "traceId": event.trace_id,
            "name": score.name,
            "value": score.value,
            "dataType": "NUMERIC",
            "timestamp": event.time.isoformat(),
            "metadata": {"task_id": event.task_id, "tenant": event.tenant_id, "by": score.by},
        }
        if self._contents and score.comment:
            body["comment"] = redact(score.comment)
        await self._server.ask("POST", "/api/public/scores", json=body)

    async def check(self) -> str:
        """Returns the name of the project of the key. Raises TryLater, Refused."""
        answer = await self._server.ask("GET", "/api/public/projects")
        names = ", ".join(project["name"] for project in answer.get("data", ()))
        return f"{self._server.shown} takes scores of {names or 'no project'}"


Read = Callable[[str, str, int], Awaitable[str]]
"""Reads the text of a version: of a tenant, by name and number. Raises NotFound."""
_API = "/api/applications"
_REGISTERED, _LABELLED = "prompt.registered", "prompt.labelled"
_PRODUCTION = "production"
"""The label, and the environment of Agenta, of what is in use."""
_SETTINGS = ("model", "temperature", "max_tokens")


class AgentaSink:
    """Commits registered versions of prompts, and deploys the one that gets the label `production`.

    A version is a revision of a variant of one application. It is found again by its slug, which follows from
    our version, so that a repeat changes nothing: https://docs.agenta.ai/reference/api
    """

    event_types: Collection[str] = (_REGISTERED, _LABELLED)
    parallel = 1

    def __init__(self, server: SinkServer, application: str, read_prompt: Read) -> None:
        self._server = server
        self._application = application
        self._read = read_prompt

    async def take(self, event: Event) -> None:
        """Commit a version, and deploy it where it is in use. Raises Refused, TryLater."""
        from meshwright.parts.llmops.event_types import PromptLabelled, PromptRegistered

        label, tenant_id = PromptLabelled.read(event), event.tenant_id
        prompt = label or PromptRegistered.from_payload(event.payload)
        name, version = prompt.name, prompt.version
        if not version:
            return
        refs = {
            "application_ref": {"slug": self._application},
            "application_variant_ref": {"slug": name},
            "application_revision_ref": {"slug": derived_id(tenant_id, name, str(version))[:12].lower()},
        }
        if not await self._has(refs):
            await self._commit(tenant_id, name, version, refs, getattr(prompt, "message", None) or "")
        if label is not None and label.label == _PRODUCTION:
            await self._post("revisions/deploy", {**refs, "environment_ref": {"slug": _PRODUCTION}})

    async def check(self) -> str:
        """Returns that the application is there. Raises TryLater."""
        await self._application_id()
        return f"{self._server.shown} takes prompts for the application {self._application!r}"

    async def _has(self, refs: Mapping[str, Any]) -> bool:
        answer = await self._server.request("POST", f"{_API}/revisions/retrieve", json=refs)
        if answer.status not in (200, 404):
            raise TryLater(self._server.problem(answer))
        return bool(parse_json(answer).get("application_revision"))

    async def _commit(
        self, tenant_id: str, name: str, version: int, refs: Mapping[str, Any], message: str
    ) -> None:
        try:
            text = await self._read(tenant_id, name, version)
        except NotFound as error:
            raise Refused(str(error)) from None
        parameters, _ = fields_and_body(text)
        sections = parse_prompt(name, text.encode()).sections
        application_id, variant_id = await self._variant(name)
        settings = {field: parameters[field] for field in _SETTINGS if field in parameters}
        prompt = {
            "messages": [{"role": section.role, "content": section.text} for section in sections],
            "template_format": "curly",
            "llm_config": settings | parameters.get("params", {}),
        }
        revision = {
            "application_id": application_id,
            "application_variant_id": variant_id,
            "slug": refs["application_revision_ref"]["slug"],
            "name": f"{name} v{version}",
            "message": message,
            "data": {"parameters": {"prompt": prompt}},
        }
        await self._post("revisions/commit", {"application_revision": revision})

    async def _variant(self, name: str) -> tuple[str, str]:
        """The ids of the application and of the variant of a prompt, which is made where it is missing."""
        query = {"application_refs": [{"slug": self._application}], "application_variant": {"slug": name}}
        variants = (await self._post("variants/query", query)).get("application_variants") or [None]
        variant = variants[0]
        if variant is None:
            new_variant = {"application_id": await self._application_id(), "slug": name, "name": name}
            variant = (await self._post("variants/", {"application_variant": new_variant}))[
                "application_variant"
            ]
        return str(variant["application_id"]), str(variant["id"])

    async def _application_id(self) -> str:
        query = {"application": {"slug": self._application}}
        answer = await self._server.request("POST", "/api/simple/applications/query", json=query)
        if answer.status != 200:
            raise TryLater(self._server.problem(answer))
        if not (applications := parse_json(answer).get("applications")):
            raise TryLater(f"{self._server.shown} has no application {self._application!r}: make it there")
        return str(applications[0]["id"])

    async def _post(self, call: str, body: Mapping[str, Any]) -> dict[str, Any]:
        return await self._server.ask("POST", f"{_API}/{call}", json=body)
