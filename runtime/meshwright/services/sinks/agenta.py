"""Agenta: registered prompts in its registry, each version a revision of a variant of one application.

A revision is found again by its slug, which follows from our version, so that a repeat changes nothing:
https://docs.agenta.ai/reference/api
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any

from meshwright.core.errors import NotFound
from meshwright.core.ids import derived_id
from meshwright.core.messages import Event
from meshwright.edges.outgoing import TryLater, json_of
from meshwright.prompts.prompt import fields_and_body
from meshwright.services.sinks.port import Refused, SinkServer

Read = Callable[[str, str, int], Awaitable[str]]
"""Reads the text of a version: of a tenant, by name and number. Raises NotFound."""
_API = "/api/applications"
_REGISTERED, _LABELLED = "prompt.registered", "prompt.labelled"
_PRODUCTION = "production"
"""The label, and the environment of Agenta, of what is in use."""
_SETTINGS = ("model", "temperature", "max_tokens")


class AgentaSink:
    """Commits registered versions of prompts, and deploys the one that gets the label `production`."""

    event_types: Collection[str] = (_REGISTERED, _LABELLED)
    parallel = 1

    def __init__(self, server: SinkServer, application: str, read_prompt: Read) -> None:
        self._server = server
        self._application = application
        self._read = read_prompt

    async def take(self, event: Event) -> None:
        """Commit a version, and deploy it where it is in use. Raises Refused, TryLater."""
        from meshwright.services.llmops.event_types import PromptLabelled, PromptRegistered

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
        return bool(json_of(answer).get("application_revision"))

    async def _commit(
        self, tenant_id: str, name: str, version: int, refs: Mapping[str, Any], message: str
    ) -> None:
        try:
            parameters, template = fields_and_body(await self._read(tenant_id, name, version))
        except NotFound as error:
            raise Refused(str(error)) from None
        application_id, variant_id = await self._variant(name)
        settings = {field: parameters[field] for field in _SETTINGS if field in parameters}
        prompt = {
            "messages": [{"role": "system", "content": template}],
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
        if not (applications := json_of(answer).get("applications")):
            raise TryLater(f"{self._server.shown} has no application {self._application!r}: make it there")
        return str(applications[0]["id"])

    async def _post(self, call: str, body: Mapping[str, Any]) -> dict[str, Any]:
        return await self._server.ask("POST", f"{_API}/{call}", json=body)
