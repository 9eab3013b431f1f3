#!/usr/bin/env bash
# Mosquitto 2.0.11-1.2+deb12u2 (Debian 12; 2.1.2 and Artemis 2.55.0 do the same), MQTT 5, paho-mqtt 2.2.0. 2026-11-28.
# Two workers share $share/workers/jobs; one has said in CONNECT that it takes packets of up to 10 KiB. Of larger
# messages its half is dropped: they go to nobody, though the other worker takes them, and PUBACK says Success.
# Most would expect: a message that one member cannot have goes to another, which MQTT 5 (3.1.2.11.4) allows and
# HiveMQ CE 2025.5 does (10 of 10), or its publisher gets a reason of failure.
# Seen: 1000 bytes: small took 5, large took 5; 20000 bytes: published 10 (Success), small took 0, large took 5
# Why an agent mesh meets it: workers of several kinds share a queue, and clients for small devices set this limit.
# Every second long prompt vanishes then, while short ones arrive.
set -euo pipefail
dir=$(mktemp -d); trap 'kill "${pid:-}" 2>/dev/null || true; wait 2>/dev/null || true; rm -rf "$dir"' EXIT
cd "$dir"
version=2.0.11-1.2+deb12u2
if [ "$(dpkg-query -W -f '${Version}' mosquitto 2>/dev/null)" != $version ]; then
    echo "needs the Debian package mosquitto $version (apt-get install mosquitto=$version)"; exit 1
fi
python3 -m venv v
v/bin/pip -q install --disable-pip-version-check paho-mqtt==2.2.0
port=$(python3 -c 'import socket; s=socket.socket(); s.bind(("127.0.0.1",0)); print(s.getsockname()[1])')
printf 'listener %s 127.0.0.1\nallow_anonymous true\n' "$port" > m.conf
/usr/sbin/mosquitto -c m.conf > log 2>&1 &
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


small, large = connect("small", MaximumPacketSize=10_240), connect("large")
for worker in (small, large):
    subscribe(worker, "$share/workers/jobs")
sender = connect("sender")

for size in (1_000, 20_000):
    codes = set()
    sender.on_publish = lambda _, u, mid, code, p: codes.add(str(code))
    for number in range(10):
        publish(sender, "jobs", "x" * size)
    time.sleep(1)
    print(f"{size} bytes: published 10 ({', '.join(sorted(codes))}), small took {len(take(small, 2))}, large took {len(take(large, 2))}")
P
timeout 120 v/bin/python t.py "$port" | tee seen
cat > expected <<'E'
1000 bytes: published 10 (Success), small took 5, large took 5
20000 bytes: published 10 (Success), small took 0, large took 5
E
if diff seen expected; then echo "as stated"; else echo "changed"; exit 1; fi
