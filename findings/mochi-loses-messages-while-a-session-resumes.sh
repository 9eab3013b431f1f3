#!/usr/bin/env bash
# mochi-mqtt server 2.7.9 (Go) with its Bolt hook, MQTT 5, paho-mqtt 2.2.0. 2026-11-29.
# Messages of QoS 1 that are published while a subscriber comes back to its session can be lost, though the broker
# acknowledged them: CONNACK says that the session is there, and they arrive neither over the new connection nor over
# a later one. Of 600 messages in 7 s, with a connection that is cut every 0.3 s and resumed, about 50 never arrive.
# Without the hook, and at Mosquitto 2.0.11, all of them do.
# Most would expect: the session has what was acknowledged, wherever the connection ends (MQTT 5, 4.1 and 4.3.2).
# Seen: some of 600 never arrive
# Why an agent mesh meets it: its edge holds one session for all tasks and comes back to it after each cut. A task
# whose publisher has its PUBACK, and nothing else, may never begin.
# Builds with Go: under a minute with a warm module cache, then 30 seconds.
set -euo pipefail
dir=$(mktemp -d); trap 'kill "${pid:-}" 2>/dev/null || true; wait 2>/dev/null || true; rm -rf "$dir"' EXIT
cd "$dir"
cat > main.go <<'G'
package main

import (
	"os"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/hooks/auth"
	"github.com/mochi-mqtt/server/v2/hooks/storage/bolt"
	"github.com/mochi-mqtt/server/v2/listeners"
)

func main() {
	s := mqtt.New(nil)
	_ = s.AddHook(new(auth.AllowHook), nil)
	if err := s.AddHook(new(bolt.Hook), &bolt.Options{Path: "kept.db"}); err != nil {
		panic(err)
	}
	_ = s.AddListener(listeners.NewTCP(listeners.Config{ID: "t", Address: "127.0.0.1:" + os.Args[1]}))
	if err := s.Serve(); err != nil {
		panic(err)
	}
	select {}
}
G
go mod init x/y 2>/dev/null
go get github.com/mochi-mqtt/server/v2@v2.7.9 2>/dev/null
go mod tidy 2>/dev/null
go build -o b .
python3 -m venv v
v/bin/pip -q install --disable-pip-version-check paho-mqtt==2.2.0
port=$(python3 -c 'import socket; s=socket.socket(); s.bind(("127.0.0.1",0)); print(s.getsockname()[1])')
./b "$port" > log 2>&1 &
pid=$!
cat > t.py <<'P'
import queue, socket, sys, threading, time
import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

port, count = int(sys.argv[1]), 600
for _ in range(100):
    try:
        socket.create_connection(("127.0.0.1", port), 1).close(); break
    except OSError:
        time.sleep(0.1)
arrived, acknowledged = set(), set()


def client(cid, clean):
    c = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id=cid, protocol=mqtt.MQTTv5, reconnect_on_failure=False)
    up = queue.Queue()
    c.on_message = lambda _, u, m: arrived.add(m.payload.decode())
    c.on_connect = lambda _, u, flags, *a: up.put(flags.session_present)
    c.on_subscribe = lambda *a: up.put(None)
    c.on_publish = lambda _, u, mid, *a: acknowledged.add(mid)
    properties = Properties(PacketTypes.CONNECT)
    properties.SessionExpiryInterval = 0 if clean else 600
    c.connect("127.0.0.1", port, clean_start=clean, properties=properties)
    c.loop_start()
    c.present, c.up = up.get(timeout=10), up
    return c


def cut(c):
    c.socket().shutdown(socket.SHUT_RDWR)
    c.loop_stop()


worker = client("worker", False)
worker.subscribe("t", 1)
worker.up.get(timeout=10)
sender = client("sender", True)


def publish():
    for number in range(count):
        sender.publish("t", str(number), 1)
        time.sleep(0.01)


lost_sessions = 0
thread = threading.Thread(target=publish)
thread.start()
while thread.is_alive():
    time.sleep(0.2)
    cut(worker)
    time.sleep(0.1)
    worker = client("worker", False)
    lost_sessions += not worker.present
for _ in range(3):
    time.sleep(1)
    cut(worker)
    worker = client("worker", False)
    lost_sessions += not worker.present
time.sleep(3)
print(f"{len(acknowledged)} acknowledged, {count - len(arrived)} never arrived, {lost_sessions} sessions not there")
seen = "some of 600 never arrive" if len(acknowledged) == count and len(arrived) < count and not lost_sessions else "another"
print("seen:", seen)
ok = seen == "some of 600 never arrive"
print("as stated" if ok else "changed")
sys.exit(not ok)
P
v/bin/python t.py "$port"
