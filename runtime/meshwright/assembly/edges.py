"""The edges of a mesh: what lets clients in that do not speak HTTP."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel

from meshwright.mesh import Mesh
from meshwright.settings import Settings

if TYPE_CHECKING:
    from meshwright.edge.mqtt import MqttEdge

ModelT = TypeVar("ModelT", bound=BaseModel)


def mqtt_edge(mesh: Mesh) -> MqttEdge:
    """Make the part that MQTT clients talk to."""
    from meshwright.edge.mqtt import MqttEdge

    return MqttEdge(
        mesh.settings,
        mesh.project,
        mesh.host,
        mesh.log,
        mesh.registry,
        own=[registration.agent_id for registration in mesh.registrations()],
        front=ApiFront(mesh.settings),
        tell=mesh.tell,
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
