#!/usr/bin/env bash
# psycopg 3.3.9 (PyPI) on PostgreSQL 15 (Debian package postgresql-15, already installed). 2026-11-29.
# A worker loops over `connection.notifies()`, and leaves the loop at the first notification to do its work, as in
# `for notify in connection.notifies(): break`, or by an exception of its handler. Three had arrived by then. The next
# `notifies()` on the same connection never shows the other two: the generator had read all three from the socket, and
# takes those that it has not yielded with it. One that comes while no loop runs waits for the next loop, as it should.
# Most would expect: leaving a generator leaves what it did not hand out on the connection; `stop_after=1`, which also
# exists, hands out all three for that reason.
# Seen: left at first, then none; at a raise: first, then none; stop_after=1: first second third, then none;
# between loops: first second third
# Why an agent runtime meets it: NOTIFY is how workers of a queue in PostgreSQL wake. Those that come together in a burst
# are lost but for one, so tasks wait for the next poll, or for ever where there is none.
set -euo pipefail
bin=/usr/lib/postgresql/15/bin
dir=$(mktemp -d)
trap 'kill -INT "${pid:-}" 2>/dev/null || true; wait 2>/dev/null || true; rm -rf "$dir"' EXIT
as=()
mkdir "$dir/data"
if [ "$(id -u)" = 0 ]; then  # the server refuses to run as root
    chmod 755 "$dir"
    chown nobody:nogroup "$dir/data"
    as=(setpriv --reuid=nobody --regid=nogroup --clear-groups)
fi
cd "$dir"
python3 -m venv v
v/bin/pip install -q --disable-pip-version-check 'psycopg[binary]==3.3.9'
port=$(python3 -c 'import socket; s=socket.socket(); s.bind(("127.0.0.1",0)); print(s.getsockname()[1])')
"${as[@]}" "$bin/initdb" -D "$dir/data" -U tester -A trust -E UTF8 --locale=C > /dev/null
"${as[@]}" "$bin/postgres" -D "$dir/data" -c listen_addresses=127.0.0.1 -c port="$port" -c unix_socket_directories= \
    > log 2>&1 &
pid=$!
for _ in $(seq 100); do "$bin/pg_isready" -q -h 127.0.0.1 -p "$port" && break; sleep 0.2; done
cat > t.py <<'P'
import sys

import psycopg

url = f"postgresql://tester@127.0.0.1:{sys.argv[1]}/postgres"
listener = psycopg.connect(url, autocommit=True)
sender = psycopg.connect(url, autocommit=True)
listener.execute("LISTEN tasks")
NAMES = ("first", "second", "third")


def send():
    with sender.transaction():
        for name in NAMES:
            sender.execute("SELECT pg_notify('tasks', %s)", [name])


def rest():
    return " ".join(notify.payload for notify in listener.notifies(timeout=1)) or "none"


def leave():
    for notify in listener.notifies(timeout=10):
        return notify.payload


def fail():
    for notify in listener.notifies(timeout=10):
        raise RuntimeError(notify.payload)


send()
print(f"left at {leave()}, then {rest()}", end="; ")
send()
try:
    fail()
except RuntimeError as error:
    print(f"at a raise: {error}, then {rest()}", end="; ")
send()
names = " ".join(notify.payload for notify in listener.notifies(timeout=10, stop_after=1))
print(f"stop_after=1: {names}, then {rest()}", end="; ")
send()
listener.execute("SELECT 1")
print(f"between loops: {rest()}")
P
seen=$(timeout 60 v/bin/python t.py "$port")
echo "seen: $seen"
expected="left at first, then none; at a raise: first, then none; stop_after=1: first second third, then none"
if [ "$seen" = "$expected; between loops: first second third" ]; then echo "as stated"; else echo "changed"; exit 1; fi
