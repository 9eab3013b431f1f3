"""The edges of a mesh: what lets clients in that do not speak HTTP."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel

from meshwright.assembly.announcements import Announcements
from meshwright.capability import Registration
from meshwright.events.log import EventLog
from meshwright.host import Host
from meshwright.orchestration.registry import Registry
from meshwright.settings import Settings

if TYPE_CHECKING:
    from meshwright.edge.mqtt import MqttEdge

ModelT = TypeVar("ModelT", bound=BaseModel)


def mqtt_edge(
    settings: Settings,
    project: Path,
    host: Host,
    log: EventLog,
    registry: Registry,
    own: Sequence[Registration],
) -> MqttEdge:
    """Make the part that MQTT clients talk to; `own` are the agents that go when this process does."""
    from meshwright.edge.mqtt import MqttEdge

    return MqttEdge(
        settings,
        project,
        host,
        log,
        registry,
        own=[registration.agent_id for registration in own],
        front=ApiFront(settings),
        tell=Announcements(host).tell,
    )


class ApiFront:
    """Reads requests and tells errors as the HTTP API does, for edges that speak something else."""

    def __init__(self, settings: Settings) -> None:
        from meshwright.api.problems import problem_of

        self.problem = problem_of
        self._settings = settings

    async def read(self, body: bytes, model: type[ModelT]) -> ModelT:
        """Read a body into a model, within the API's limits. Raises InvalidInput or TooLarge."""
        from starlette.requests import Request

        from meshwright.api.wire import read_model

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": body}

        return await read_model(Request({"type": "http", "headers": []}, receive), model, self._settings)
