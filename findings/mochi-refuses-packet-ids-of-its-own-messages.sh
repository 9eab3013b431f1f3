#!/usr/bin/env bash
# mochi-mqtt server 2.7.9 (Go), MQTT 5, paho-mqtt 2.2.0. 2026-11-27.
# A SUBSCRIBE whose packet id equals that of a QoS 1 message which the broker has sent and the client has not
# acknowledged yet is refused: SUBACK 0x91, Packet identifier in use. With another packet id it is granted.
# Most would expect: client and broker number their packets independently of each other, as MQTT 5 (2.2.1) has it.
# Seen: message 1, SUBSCRIBE with 1: Packet identifier in use, with 1001: Granted QoS 1
# Why an agent mesh meets it: a client that resumes its session gets the held messages before it subscribes, and
# both sides begin to count at 1.
# Builds with Go: under a minute with a warm module cache.
set -euo pipefail
dir=$(mktemp -d); trap 'kill "${pid:-}" 2>/dev/null || true; wait 2>/dev/null || true; rm -rf "$dir"' EXIT
cd "$dir"
cat > main.go <<'G'
package main

import (
	"os"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/hooks/auth"
	"github.com/mochi-mqtt/server/v2/listeners"
)

func main() {
	s := mqtt.New(nil)
	_ = s.AddHook(new(auth.AllowHook), nil)
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
v/bin/pip -q install paho-mqtt==2.2.0
port=$(python3 -c 'import socket; s=socket.socket(); s.bind(("127.0.0.1",0)); print(s.getsockname()[1])')
./b "$port" > log 2>&1 &
pid=$!
cat > t.py <<'P'
import queue, socket, sys, time
import paho.mqtt.client as mqtt

port = int(sys.argv[1])
for _ in range(100):
    try:
        socket.create_connection(("127.0.0.1", port), 1).close(); break
    except OSError:
        time.sleep(0.1)


def client(cid):
    c = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id=cid, protocol=mqtt.MQTTv5, manual_ack=True, reconnect_on_failure=False)
    c.q, c.subbed, up = queue.Queue(), queue.Queue(), queue.Queue()
    c.on_message = lambda _, u, m: c.q.put(m)
    c.on_subscribe = lambda _, u, mid, r, p: c.subbed.put(str(r[0]))
    c.on_connect = lambda *a: up.put(1)
    c.connect("127.0.0.1", port)
    c.loop_start()
    up.get(timeout=10)
    return c


c, p = client("worker"), client("sender")
c.subscribe("t/#", 1)
c.subbed.get(timeout=10)
p.publish("t/x", b"1", 1).wait_for_publish(10)
held = c.q.get(timeout=10)  # not acknowledged
results = []
for number in (held.mid, held.mid + 1000):
    c._last_mid = number - 1  # the packet id that paho takes next
    c.subscribe("u/#", 1)
    results.append(c.subbed.get(timeout=10))
print(f"message {held.mid}, SUBSCRIBE with {held.mid}: {results[0]}, with {held.mid + 1000}: {results[1]}")
ok = results == ["Packet identifier in use", "Granted QoS 1"]
print("as stated" if ok else "changed")
sys.exit(not ok)
P
v/bin/python t.py "$port"
