"""The component of the MQTT edge: it keeps a connection to the broker, and all that lives on it."""

from __future__ import annotations

from collections.abc import Iterable

from meshwright.edges.mqtt.edge import MqttEdge
from meshwright.edges.mqtt.settings import MqttSettings
from meshwright.mesh.components import Check, Component
from meshwright.mesh.mesh import Mesh


class MqttComponent(Component):
    """Lets MQTT clients in, where a broker is set and this process is the front."""

    name = "mqtt"
    tables = "tables"
    config: MqttSettings

    def __init__(self, mesh: Mesh) -> None:
        super().__init__(mesh)
        if self.config.url and mesh.role.is_front:
            self._edge = MqttEdge(mesh)
            self.parts.append(self._edge)

    def checks(self) -> Iterable[Check]:
        """Whether the broker lets the mesh in."""
        return [Check("mqtt", self._edge.check)] if self.parts else []
