"""The component of the MQTT edge."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import ClassVar

from meshwright.component import Check, Component
from meshwright.mesh import Mesh


class MqttComponent(Component):
    """Lets MQTT clients in, where a broker is set and this process is the front."""

    name = "mqtt"
    facts: ClassVar[Mapping[str, str]] = {"edge.*": "count"}

    def __init__(self, mesh: Mesh) -> None:
        super().__init__(mesh)
        if self.config.url and mesh.role.is_front:
            from meshwright.edges.mqtt.edge import MqttEdge

            self._edge = MqttEdge(mesh)
            self.parts.append(self._edge)

    def checks(self) -> Iterable[Check]:
        """Whether the broker lets the mesh in."""
        return [Check("mqtt", self._edge.check)] if self.parts else []
