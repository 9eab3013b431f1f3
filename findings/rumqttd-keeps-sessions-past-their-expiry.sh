#!/usr/bin/env bash
# rumqttd (the code of 0.20, as packed in the wheel iotcore 0.4.0), MQTT 5, paho-mqtt 2.2.0. 2026-11-28.
# No session ever ends by its expiry: one with a Session Expiry Interval of 1 s is there after 4 s, so is one without
# that property, and one whose client has set it to 0 in DISCONNECT. What is published meanwhile is delivered late.
# Most would expect: without the property a session ends with its connection (MQTT 5, 3.1.2.11.2), and 0 in DISCONNECT
# is how a client says that it will not come back, as Mosquitto, RabbitMQ, HiveMQ CE, Artemis, ejabberd, mochi do it.
# Seen: all three: session present True, late delivered
# Why an agent mesh meets it: a worker that leaves for good keeps its queue at the broker, which fills; one that comes
# back weeks later under its name does tasks that others were given meanwhile.
set -euo pipefail
dir=$(mktemp -d); trap 'kill "${pid:-}" 2>/dev/null || true; wait 2>/dev/null || true; rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv v
v/bin/pip -q install --disable-pip-version-check iotcore==0.4.0 paho-mqtt==2.2.0
port=$(python3 -c 'import socket; s=socket.socket(); s.bind(("127.0.0.1",0)); print(s.getsockname()[1])')
cat > r.toml <<T
id = 0
[router]
id = 0
max_connections = 100
max_outgoing_packet_count = 200
max_segment_size = 104857600
max_segment_count = 10
[v5.1]
name = "v5"
listen = "127.0.0.1:$port"
next_connection_delay_ms = 1
    [v5.1.connections]
    connection_timeout_ms = 60000
    max_payload_size = 1048576
    max_inflight_count = 100
    dynamic_filters = true
T
v/bin/python -c 'from iotcore import IotCoreBroker; IotCoreBroker(config_path="r.toml").run_forever()' > log 2>&1 &
pid=$!
cat > t.py <<'P'
import queue
import socket
import sys
import time

import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

port = int(sys.argv[1])
for _ in range(100):
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
        break
    except OSError:
        time.sleep(0.1)


def connect(cid, clean=True, will=None, **limits):
    """A client over MQTT 5 that acknowledges by hand."""
    c = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id=cid, protocol=mqtt.MQTTv5, manual_ack=True, reconnect_on_failure=False)
    c.q, c.up = queue.Queue(), queue.Queue()
    c.on_message = lambda _, u, m: c.q.put(m)
    c.on_connect = lambda _, u, flags, *rest: c.up.put(flags.session_present)
    c.on_subscribe = lambda *a: c.up.put(None)
    properties = Properties(PacketTypes.CONNECT)
    for name, value in limits.items():
        setattr(properties, name, value)
    if will:
        c.will_set(*will)
    c.connect("127.0.0.1", port, 60, clean_start=clean, properties=properties)
    c.loop_start()
    c.session_present = c.up.get(timeout=10)
    return c


def subscribe(c, topic):
    c.subscribe(topic, 1)
    c.up.get(timeout=10)


def publish(c, topic, text, **options):
    properties = Properties(PacketTypes.PUBLISH)
    for name, value in options.items():
        setattr(properties, name, value)
    c.publish(topic, text, 1, properties=properties).wait_for_publish(10)


def take(c, seconds=4):
    """Acknowledge what comes, one after the other; returns the texts."""
    texts = []
    while True:
        try:
            message = c.q.get(timeout=seconds)
        except queue.Empty:
            return texts
        c.ack(message.mid, message.qos)
        texts.append(message.payload.decode())


sender = connect("sender")
for name, expiry, last in (("expiry 1", 1, None), ("no expiry", None, None), ("expiry 600, ended by DISCONNECT with 0", 600, 0)):
    cid = f"worker-{expiry}-{last}"
    limits = {} if expiry is None else {"SessionExpiryInterval": expiry}
    worker = connect(cid, False, **limits)
    subscribe(worker, f"jobs/{cid}")
    farewell = Properties(PacketTypes.DISCONNECT)
    if last is not None:
        farewell.SessionExpiryInterval = last
    worker.disconnect(properties=farewell)
    worker.loop_stop()
    time.sleep(4)
    publish(sender, f"jobs/{cid}", "late")
    worker = connect(cid, False, **limits)
    print(f"{name}: session present {worker.session_present}, {' '.join(take(worker, 3)) or 'nothing'} delivered")
    worker.disconnect()
P
timeout 120 v/bin/python t.py "$port" | tee seen
cat > expected <<'E'
expiry 1: session present True, late delivered
no expiry: session present True, late delivered
expiry 600, ended by DISCONNECT with 0: session present True, late delivered
E
if diff seen expected; then echo "as stated"; else echo "changed"; exit 1; fi
