#!/usr/bin/env bash
# aiomqtt 2.5.1 with paho-mqtt 2.2.0 (PyPI), MQTT 5, Mosquitto of Debian 12. 2026-11-28.
# A worker reads `async for message in client.messages`, with QoS 1 and a session that outlives it. Five messages come;
# it is at work on the first when it is killed. When it comes back over the same session nothing is delivered again:
# all five were acknowledged when they arrived, the four that the loop had not even seen too. paho's callback is what
# acknowledges, and aiomqtt's only puts the message in a queue in memory.
# Most would expect: at least once reaches the loop, so that what it had not taken comes again, as with paho where the work
# is done in the callback (MQTT 5, 4.3.2: the receiver acknowledges what it has accepted ownership of).
# Seen: aiomqtt: took 0, again none; paho: took 0, again 0 1 2 3 4
# Why an agent runtime meets it: a worker takes one task at a time, for minutes, and the rest waits. Each deploy or crash
# loses all that waited in the process, with PUBACK for each of them, though session and QoS are as they should be.
set -euo pipefail
dir=$(mktemp -d)
trap 'kill "${pid:-}" "${worker:-}" 2>/dev/null || true; wait 2>/dev/null || true; rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv v
v/bin/pip install -q --disable-pip-version-check aiomqtt==2.5.1 paho-mqtt==2.2.0
port=$(python3 -c 'import socket; s=socket.socket(); s.bind(("127.0.0.1",0)); print(s.getsockname()[1])')
mosquitto=$(command -v mosquitto || echo /usr/sbin/mosquitto)
printf 'listener %s 127.0.0.1\nallow_anonymous true\n' "$port" > broker.conf
"$mosquitto" -c broker.conf > log 2>&1 &
pid=$!
for _ in $(seq 100); do (: < "/dev/tcp/127.0.0.1/$port") 2>/dev/null && break; sleep 0.1; done
cat > t.py <<'P'
import asyncio
import queue
import sys
import time

import aiomqtt
import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

library, step, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
session = Properties(PacketTypes.CONNECT)
session.SessionExpiryInterval = 600


async def work_by_aiomqtt():
    settings = {"protocol": aiomqtt.ProtocolVersion.V5, "clean_start": False, "properties": session}
    async with aiomqtt.Client("127.0.0.1", port, identifier=library, **settings) as client:
        await client.subscribe(library, qos=1)
        print("ready", flush=True)
        async for message in client.messages:
            print(message.payload.decode(), flush=True)
            if step == "work":
                await asyncio.sleep(600)


def work_by_paho():
    def on_message(client, userdata, message):
        print(message.payload.decode(), flush=True)
        if step == "work":
            time.sleep(600)

    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id=library, protocol=mqtt.MQTTv5)
    client.on_message = on_message
    client.on_connect = lambda *_: client.subscribe(library, 1)
    client.on_subscribe = lambda *_: print("ready", flush=True)
    client.connect("127.0.0.1", port, clean_start=False, properties=session)
    client.loop_forever()


def send(texts):
    connected = queue.Queue()
    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
    client.on_connect = lambda *_: connected.put(True)
    client.connect("127.0.0.1", port)
    client.loop_start()
    connected.get(timeout=30)
    for text in texts:
        client.publish(library, text, 1).wait_for_publish(30)
    client.disconnect()
    client.loop_stop()


if step == "send":
    send(sys.argv[4:])
elif library == "aiomqtt":
    asyncio.run(work_by_aiomqtt())
else:
    work_by_paho()
P
# Waits until the file $1 has a line $2.
wait_for() { for _ in $(seq 300); do grep -qx "$2" "$1" 2>/dev/null && return; sleep 0.1; done; echo "no $2"; exit 1; }
seen=
for library in aiomqtt paho; do
    v/bin/python t.py $library work "$port" > work & worker=$!
    wait_for work ready
    v/bin/python t.py $library send "$port" 0 1 2 3 4
    wait_for work 0
    sleep 1
    kill -9 $worker; wait $worker 2>/dev/null || true
    v/bin/python t.py $library resume "$port" > resume & worker=$!
    wait_for resume ready
    v/bin/python t.py $library send "$port" last
    wait_for resume last
    kill -9 $worker; wait $worker 2>/dev/null || true
    again=$(grep -x '[0-9]' resume | sort -u | xargs || true)
    seen="$seen; $library: took $(grep -x '[0-9]' work | xargs), again ${again:-none}"
done
seen=${seen#; }
echo "seen: $seen"
expected="aiomqtt: took 0, again none; paho: took 0, again 0 1 2 3 4"
if [ "$seen" = "$expected" ]; then echo "as stated"; else echo "changed"; exit 1; fi
