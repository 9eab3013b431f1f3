#!/usr/bin/env bash
# Mosquitto 2.0.11-1.2+deb12u2 (Debian 12; 2.1.2 does not), MQTT 5, paho-mqtt 2.2.0. 2026-11-28.
# A worker takes one message at a time (Receive Maximum 1). Behind the one in work wait some with an expiry that ends
# meanwhile, and others without one. After its PUBACK nothing comes any more. With one expired message the others come
# once somebody publishes again, and behind that one; with three they come never, also when the worker reconnects.
# Most would expect: the broker drops what has expired and sends the next, as it does with a Receive Maximum of 5.
# Seen: window 1, 1 expired: nothing, then new waiting0 waiting1 waiting2; window 1, 3 expired: nothing, then new alone
# Why an agent mesh meets it: one task at a time is what a worker of slow tasks asks for, and requests with an expiry
# are what callers with a deadline send. The worker idles, connected, while tasks wait for it.
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


for window, expired in ((1, 1), (1, 3), (5, 3)):
    topic, cid = f"jobs/{window}/{expired}", f"worker-{window}-{expired}"
    worker = connect(cid, False, SessionExpiryInterval=600, ReceiveMaximum=window)
    subscribe(worker, topic)
    sender = connect(f"sender-{window}-{expired}")
    for number in range(window):
        publish(sender, topic, f"first{number}")
    for number in range(expired):
        publish(sender, topic, "expired", MessageExpiryInterval=1)
    for number in range(3):
        publish(sender, topic, f"waiting{number}")
    time.sleep(3)  # the worker works
    then = take(worker)
    publish(sender, topic, "new")
    after = take(worker)
    worker.disconnect()
    worker.loop_stop()
    worker = connect(cid, False, SessionExpiryInterval=600, ReceiveMaximum=window)
    again = take(worker)
    show = lambda texts: " ".join(texts) or "nothing"
    waiting = [text for text in then if not text.startswith("first")]
    print(f"window {window}, {expired} expired: {show(waiting)}; after a new message: {show(after)}; reconnected: {show(again)}")
    worker.disconnect()
    sender.disconnect()
P
timeout 120 v/bin/python t.py "$port" | tee seen
cat > expected <<'E'
window 1, 1 expired: nothing; after a new message: new waiting0 waiting1 waiting2; reconnected: nothing
window 1, 3 expired: nothing; after a new message: new; reconnected: nothing
window 5, 3 expired: waiting0 waiting1 waiting2; after a new message: new; reconnected: nothing
E
if diff seen expected; then echo "as stated"; else echo "changed"; exit 1; fi
