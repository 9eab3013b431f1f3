"""An MQTT broker, as any client meets it: connections, topics of a mesh, and how it delivers."""
