"""Takes deliveries: proves who sent them, makes their tasks, and answers once those are durable."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from meshwright.core.errors import IdempotencyConflict, MeshError
from meshwright.core.messages import Caller, Event
from meshwright.core.topics import BOARD, MESH
from meshwright.edges.deliveries import Gate, json_object, proof_of
from meshwright.edges.replies import Courier
from meshwright.edges.webhooks.forge import SCHEME as FORGE
from meshwright.edges.webhooks.forge import forge_address
from meshwright.edges.webhooks.kinds import Item, board_event, is_own, items_of, kind_of
from meshwright.edges.webhooks.rules import TaskRule
from meshwright.identity.operations import Operations
from meshwright.mesh import Mesh
from meshwright.settings.webhooks import WebhookSource
from meshwright.work.protocol import TaskKey

_logger = logging.getLogger("meshwright.edges.webhooks")


class Source:
    """A source of the settings with its rules: reads deliveries, and says what they are to become."""

    def __init__(self, name: str, settings: WebhookSource, rules: Sequence[TaskRule]) -> None:
        self.name = name
        self.settings = settings
        self.rules = rules
        self.proofs = [
            proof_of(f"webhooks.sources.{name}", kind_of(settings, secret), secret)
            for secret in settings.secrets
        ]
        self.kind = kind_of(settings)
        by = f"webhook:{name}"
        self.caller = Caller(
            tenant_id=settings.tenant, requested_by=by, source=by, roles=frozenset({"submitter"})
        )

    def read(self, headers: Mapping[str, str], body: bytes, max_depth: int) -> list[Item]:
        """Returns the events of a delivery. Raises UnsupportedType, MalformedJson, TooLarge."""
        return list(items_of(self.kind, headers, body, json_object(headers, body, max_depth)))

    def fitting(self, item: Item) -> list[TaskRule]:
        """Returns the rules that make a task of an event."""
        return [] if is_own(self.kind, item) else [rule for rule in self.rules if rule.fits(item)]


class WebhookReceiver:
    """Turns the deliveries of sources into tasks and events of a mesh."""

    def __init__(self, mesh: Mesh, sources: Mapping[str, Source]) -> None:
        self._mesh = mesh
        self._sources = sources
        self._gate = Gate(mesh, "webhook", "webhooks.sources")
        self._max_payload_bytes = mesh.settings.max_payload_bytes

    def source(self, name: str, address: str) -> Source:
        """Returns a source by its name. Raises Unauthenticated, which says no more than a wrong signature."""
        if name not in self._sources:
            raise self._gate.refused(name, address, f"there is no source {name!r} in [webhooks.sources]")
        return self._sources[name]

    def authenticate(self, source: Source, headers: Mapping[str, str], body: bytes, address: str) -> None:
        """Raises Unauthenticated for a delivery that a source with a secret has not signed."""
        if source.proofs:
            self._gate.check(source.name, source.proofs, headers, body, address)

    async def accept(self, source: Source, items: Iterable[Item]) -> list[str]:
        """Make the tasks of a delivery's events, and return their ids; all is durable then.

        A delivery that was sent before is the same tasks. Raises what `Operations.submit` raises.
        """
        return [task_id for item in items for task_id in await self._accept(source, item)]

    async def _accept(self, source: Source, item: Item) -> list[str]:
        tasks = []
        for rule in source.fitting(item):
            try:
                tasks.append(await self._submit(source, rule, item))
            except MeshError as error:
                self._tell_failed(source, rule, item, error)
                raise
        await self._record(source, item, tasks)
        return tasks

    async def _submit(self, source: Source, rule: TaskRule, item: Item) -> str:
        tenant_id = source.settings.tenant
        request = rule.request(item, tenant_id, self._max_payload_bytes)
        assert request.task_id is not None
        if (address := forge_address(source.settings.kind, rule.settings, item)) is not None:
            await self._mesh.component(Courier).ask(FORGE, TaskKey(tenant_id, request.task_id), address)
        elif rule.settings.reply != "none":
            reason = f"the delivery names nothing that a {rule.settings.reply} could go to"
            dropped = {"scheme": FORGE, "reason": reason}
            self._mesh.tell("reply.dropped", dropped, tenant_id=tenant_id, task_id=request.task_id)
        try:
            await Operations(self._mesh, source.caller).submit(request)
        except IdempotencyConflict:  # the same event, in words of a rule or a group that have changed since
            _logger.info("task %s of source %s was accepted before", request.task_id, source.name)
        return request.task_id

    def _tell_failed(self, source: Source, rule: TaskRule, item: Item, error: MeshError) -> None:
        known = {
            "source": source.name,
            "rule": rule.rule_id,
            "delivery": item.delivery_id,
            "reason": str(error),
        }
        self._mesh.tell("webhook.failed", known, tenant_id=source.settings.tenant)

    async def _record(self, source: Source, item: Item, tasks: list[str]) -> None:
        """Have the event in the log, once, with what it says of a board."""
        found = [(MESH, "webhook.received", {"event": item.event, "tasks": tasks})]
        if (board := board_event(source.settings.kind, item)) is not None:
            found.append((BOARD, *board))
        events = [self._event(source, item, *event) for event in found]
        await self._mesh.host.emit([event for event in events if not await self._mesh.log.knows(event.id)])

    def _event(
        self, source: Source, item: Item, topic: str, event_type: str, payload: dict[str, Any]
    ) -> Event:
        return Event(
            id=f"{event_type.partition('.')[0]}/{source.settings.tenant}/{source.name}/{item.delivery_id}",
            event_type=event_type,
            topic=topic,
            time=self._mesh.host.clock.now(),
            tenant_id=source.settings.tenant,
            aggregate_id=f"webhooks/{source.name}",
            idempotency_key=item.delivery_id,
            payload={"source": source.name, "delivery": item.delivery_id, **payload},
        )
