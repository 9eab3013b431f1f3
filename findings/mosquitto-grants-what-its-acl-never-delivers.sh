#!/usr/bin/env bash
# Mosquitto 2.0.11-1.2+deb12u2 (Debian 12), paho-mqtt 2.2.0, MQTT 3.1.1 and 5. 2026-11-29.
# By the file of `acl_file` a user may only write `jobs/#` and only read `status/#`. It subscribes to `jobs/#`, is granted
# QoS 1, and never gets a message of it. It publishes to `status/a` with QoS 1: over MQTT 5 the PUBACK says that it is not
# authorized, over MQTT 3.1.1 it is the same as that of a message that was delivered.
# Most would expect: SUBACK has a code for failure (0x80, 0x87), which other brokers send; a grant means that it reads.
# Seen: 3.1.1: subscribed Granted QoS 1, got nothing, published Success, delivered nothing;
# 5: subscribed Granted QoS 1, got nothing, published Not authorized, delivered nothing
# Why an agent mesh meets it: a worker whose rights lack one line starts, is granted its queue and idles; a caller on
# MQTT 3.1.1 has the acknowledgement of a task that nobody got. Only a message to oneself shows whether the rights do.
set -euo pipefail
dir=$(mktemp -d); trap 'kill "${pid:-}" 2>/dev/null || true; wait 2>/dev/null || true; rm -rf "$dir"' EXIT
cd "$dir"
version=2.0.11-1.2+deb12u2
if [ "$(dpkg-query -W -f '${Version}' mosquitto 2>/dev/null)" != $version ]; then
    echo "needs the Debian package mosquitto $version (apt-get install mosquitto=$version)"; exit 1
fi
python3 -m venv v
v/bin/pip install -q --disable-pip-version-check paho-mqtt==2.2.0
port=$(python3 -c 'import socket; s=socket.socket(); s.bind(("127.0.0.1",0)); print(s.getsockname()[1])')
printf 'user worker\ntopic write jobs/#\ntopic read status/#\nuser all\ntopic readwrite #\n' > acl
printf 'listener %s 127.0.0.1\nallow_anonymous true\nacl_file %s/acl\nuser %s\n' "$port" "$dir" "$(id -un)" > m.conf
/usr/sbin/mosquitto -c m.conf > log 2>&1 &
pid=$!
for _ in $(seq 100); do (: < "/dev/tcp/127.0.0.1/$port") 2>/dev/null && break; sleep 0.1; done
cat > t.py <<'P'
import queue
import sys

import paho.mqtt.client as mqtt


class Client:
    def __init__(self, user, protocol):
        self.grants, self.receipts, self.messages, up = (queue.Queue() for _ in range(4))
        self.mqtt = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id=f"{user}{protocol}", protocol=protocol)
        self.mqtt.username_pw_set(user)
        self.mqtt.on_connect = lambda *_: up.put(1)
        self.mqtt.on_subscribe = lambda _, __, ___, codes, ____: self.grants.put(str(codes[0]))
        self.mqtt.on_publish = lambda _, __, ___, code, ____: self.receipts.put(str(code))
        self.mqtt.on_message = lambda _, __, message: self.messages.put(message.payload.decode())
        self.mqtt.connect("127.0.0.1", int(sys.argv[1]))
        self.mqtt.loop_start()
        up.get(timeout=10)

    def subscribe(self, pattern):
        self.mqtt.subscribe(pattern, 1)
        return self.grants.get(timeout=10)

    def publish(self, topic, text):
        self.mqtt.publish(topic, text, 1)
        return self.receipts.get(timeout=10)

    def read(self):
        """Return what came before the text `end`, which this client may read."""
        return " ".join(iter(lambda: self.messages.get(timeout=10), "end")) or "nothing"


seen = []
for name, protocol in (("3.1.1", mqtt.MQTTv311), ("5", mqtt.MQTTv5)):
    worker, other = Client("worker", protocol), Client("all", protocol)
    granted = worker.subscribe("jobs/#")
    worker.subscribe("status/end")
    other.subscribe("status/#")
    other.publish("jobs/a", "job")
    receipt = worker.publish("status/a", "state")
    other.publish("status/end", "end")
    got, delivered = worker.read(), other.read()
    seen.append(f"{name}: subscribed {granted}, got {got}, published {receipt}, delivered {delivered}")
print("; ".join(seen))
P
seen=$(timeout 60 v/bin/python t.py "$port")
echo "seen: $seen"
expected="3.1.1: subscribed Granted QoS 1, got nothing, published Success, delivered nothing"
expected="$expected; 5: subscribed Granted QoS 1, got nothing, published Not authorized, delivered nothing"
if [ "$seen" = "$expected" ]; then echo "as stated"; else echo "changed"; exit 1; fi
