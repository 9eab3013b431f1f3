"""claude-mqtt-bridge: what Claude Code does, as events in a SQLite file and at an MQTT broker."""
