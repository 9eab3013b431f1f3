"""The component that takes tasks from the bus of a mesh on Dapr."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from functools import partial
from typing import Any

from meshwright.core.access import Role
from meshwright.core.errors import Draining, MeshError
from meshwright.core.messages import Caller
from meshwright.edges.bodies import InternalError
from meshwright.edges.cloud_events import EventAddress, TaskEvent, accept, envelope, refusal
from meshwright.edges.replies.courier import Courier, Sender, until_answered
from meshwright.engine.events.event_types import BusRefused
from meshwright.mesh.components import Component
from meshwright.mesh.identity.operations import Operations
from meshwright.mesh.mesh import Mesh
from meshwright.parts.stack.settings import DaprSettings, Publisher

_logger = logging.getLogger("meshwright.edges.bus")


class _BusSender(Sender[EventAddress]):
    """Publishes outcomes as CloudEvents."""

    scheme = scope = "bus"
    kind = EventAddress

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh

    async def send(self, address: EventAddress, document: bytes) -> None:
        """Publish an outcome. Raises StoreUnavailable while the broker is away."""
        await self._mesh.runtime.publish_raw(address.topic, envelope(address.attributes, document))


class PublishersComponent(Component):
    """Takes the tasks of [dapr.publishers] at the front of a mesh on Dapr."""

    name = "publishers"

    def __init__(self, mesh: Mesh) -> None:
        super().__init__(mesh)
        self._stopping = asyncio.Event()
        self._publishers = mesh.settings[DaprSettings].publishers
        if self._publishers and mesh.runtime.has_broker and mesh.role.is_front:
            mesh.get(Courier).register(_BusSender(mesh))
            for name, publisher in self._publishers.items():
                mesh.runtime.take_topic(publisher.topic, partial(self._take, name, publisher))

    def warnings(self) -> Iterable[str]:
        """Publishers that nobody listens to."""
        is_on_dapr = self.mesh.runtime.has_broker or self.mesh.settings.store == "dapr"
        if self._publishers and not is_on_dapr:  # a check may build the mesh without its sidecar
            yield "[dapr.publishers] has no effect: this mesh is not on Dapr; publish over MQTT instead"

    async def start(self) -> None:
        """Take events."""
        self._stopping.clear()

    async def stop(self) -> None:
        """Leave events that cannot be taken now to the broker."""
        self._stopping.set()

    async def _take(self, name: str, publisher: Publisher, body: bytes) -> bool:
        """Take an event, answer it, and have it acknowledged. Raises HostError for one to come again."""
        by, tenant_id = f"bus:{name}", publisher.tenant
        caller = Caller(
            tenant_id=tenant_id, requested_by=by, source=by, roles=frozenset({Role.SUBMITTER.value})
        )
        outcome_to = partial(EventAddress, client=by, topic=publisher.results)
        try:
            event = TaskEvent.read(body, self.mesh.settings)
            operations = Operations(self.mesh, caller)
            answer = await accept(operations, event, _BusSender.scheme, outcome_to, self._attempt)
        except Draining:
            raise
        except Exception as error:  # the sender gets every error, and the event does not come for ever
            if not isinstance(error, MeshError):
                _logger.exception("an event on %s failed", publisher.topic)
            answer = refusal(body, InternalError.from_exception(error), tenant_id)
            fields = {"topic": publisher.topic, "publisher": name, "error": str(error)}
            self.mesh.tell(BusRefused(**fields, bytes=len(body)), tenant_id=tenant_id)
        await self.mesh.runtime.publish_raw(publisher.receipts, answer)
        return True

    def _attempt(self, ask: Callable[[], Awaitable[Any]]) -> Awaitable[Any]:
        return until_answered(ask, self._sleep)

    async def _sleep(self, seconds: float) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)
            raise Draining("the mesh is stopping")
