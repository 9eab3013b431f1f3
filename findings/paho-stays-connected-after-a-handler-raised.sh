#!/usr/bin/env bash
# paho-mqtt 2.2.0 (PyPI), MQTT 5, Mosquitto of Debian 12. 2026-11-28.
# `on_message` raises once, for one message of four, in a client of `loop_start()`. The exception ends the client's only
# thread. From then on it takes nothing, also none of the messages that are well, and sends no pings; `is_connected()`
# stays true, no `on_disconnect` comes, and a `publish` of QoS 0 arrives, since it is now sent by the caller's thread.
# Most would expect: the error is logged and the next message comes, or the client disconnects and connects again, as
# it does by itself after other failures. The documentation of loop_start() names neither.
# Seen: a, bad; thread gone, is_connected True, on_disconnect 0, publish MQTT_ERR_SUCCESS, arrived done
# Why an agent runtime meets it: a worker or an edge is deaf after one message that it could not parse, and its health
# check, which asks is_connected() or publishes, says that all is well. The broker holds or drops what comes for one and a half
# keep-alives, and the message that raised has no acknowledgement, so it is the first to come when somebody restarts it.
# The remedy there: `client.suppress_exceptions = True`, or a handler that catches.
set -euo pipefail
dir=$(mktemp -d); trap 'kill "${pid:-}" 2>/dev/null || true; wait 2>/dev/null || true; rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv v
v/bin/pip install -q --disable-pip-version-check paho-mqtt==2.2.0
port=$(python3 -c 'import socket; s=socket.socket(); s.bind(("127.0.0.1",0)); print(s.getsockname()[1])')
mosquitto=$(command -v mosquitto || echo /usr/sbin/mosquitto)
printf 'listener %s 127.0.0.1\nallow_anonymous true\n' "$port" > broker.conf
"$mosquitto" -c broker.conf > log 2>&1 &
pid=$!
for _ in $(seq 100); do (: < "/dev/tcp/127.0.0.1/$port") 2>/dev/null && break; sleep 0.1; done
cat > t.py <<'P'
import queue
import sys
import threading

import paho.mqtt.client as mqtt

threading.excepthook = lambda _: ended.set()  # in place of the traceback
ended = threading.Event()
taken, disconnects, elsewhere = [], [], queue.Queue()


def client(name, topic, on_message):
    ready = threading.Event()
    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id=name, protocol=mqtt.MQTTv5)
    client.on_message = on_message
    client.on_connect = lambda *_: client.subscribe(topic, 1)
    client.on_subscribe = lambda *_: ready.set()
    client.connect("127.0.0.1", int(sys.argv[1]))
    client.loop_start()
    ready.wait(30)
    return client


def work(client, userdata, message):
    text = message.payload.decode()
    taken.append(text)
    if text == "bad":
        raise ValueError(text)


worker = client("worker", "jobs", work)
worker.on_disconnect = lambda *_: disconnects.append(1)
sender = client("sender", "results", lambda client, userdata, message: elsewhere.put(message.payload.decode()))
for text in ("a", "bad", "b", "c"):
    sender.publish("jobs", text, 1).wait_for_publish(30)
ended.wait(30)
sent = worker.publish("results", "done", 0)
try:
    arrived = elsewhere.get(timeout=30)
except queue.Empty:
    arrived = "none"
print(f"{', '.join(taken)}; thread {'gone' if ended.is_set() else 'there'}, is_connected {worker.is_connected()}, ", end="")
print(f"on_disconnect {len(disconnects)}, publish {sent.rc.name}, arrived {arrived}")
P
seen=$(timeout 120 v/bin/python t.py "$port")
echo "seen: $seen"
expected="a, bad; thread gone, is_connected True, on_disconnect 0, publish MQTT_ERR_SUCCESS, arrived done"
if [ "$seen" = "$expected" ]; then echo "as stated"; else echo "changed"; exit 1; fi
