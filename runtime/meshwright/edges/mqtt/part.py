"""The part mqtt."""

from meshwright.core.part import Part

PART = Part(
    __name__,
    "mqtt",
    component="component:MqttComponent",
    settings="settings:MqttSettings",
    needs=("mqtt.url",),
    events="meshwright.edges.event_types:MQTT_EVENTS",
)
