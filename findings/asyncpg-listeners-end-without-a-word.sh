#!/usr/bin/env bash
# asyncpg 0.32.0 and psycopg 3.3.9 (PyPI) on PostgreSQL 15 (Debian package postgresql-15, installed). 2026-11-29.
# A worker listens, and an administrator ends its session, as a restart or a failover does. asyncpg reads the error that
# the server sends, closes the connection, and says nothing: the callback of `add_listener` is never called again, there
# is no exception, no log record, nothing for the event loop's handler of exceptions. Only `is_closed()` knows.
# psycopg's `notifies()` raises OperationalError at once.
# Most would expect: an error, or a log record at least; `add_termination_listener` exists, and the documentation of
# `add_listener` names neither it nor the end of the connection.
# Seen: asyncpg: got first, then nothing; log records 0, exceptions 0, is_closed True; psycopg: got first, then OperationalError
# Why an agent runtime meets it: LISTEN wakes the workers of a queue. After a failover those on asyncpg look healthy and
# never wake again, and nothing in the logs says since when.
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
v/bin/pip install -q --disable-pip-version-check 'psycopg[binary]==3.3.9' asyncpg==0.32.0
port=$(python3 -c 'import socket; s=socket.socket(); s.bind(("127.0.0.1",0)); print(s.getsockname()[1])')
"${as[@]}" "$bin/initdb" -D "$dir/data" -U tester -A trust -E UTF8 --locale=C > /dev/null
"${as[@]}" "$bin/postgres" -D "$dir/data" -c listen_addresses=127.0.0.1 -c port="$port" -c unix_socket_directories= \
    > log 2>&1 &
pid=$!
for _ in $(seq 100); do "$bin/pg_isready" -q -h 127.0.0.1 -p "$port" && break; sleep 0.2; done
echo "$("$bin/postgres" --version), $(v/bin/pip list --disable-pip-version-check 2>/dev/null | grep -iE '^(psycopg|asyncpg) ' | tr -s " " | paste -sd,)"
cat > t.py <<'P'
import asyncio
import logging
import sys

import asyncpg
import psycopg

url = f"postgresql://tester@127.0.0.1:{sys.argv[1]}/postgres"
sender = psycopg.connect(url, autocommit=True)
records, exceptions = [], []


class Handler(logging.Handler):
    def emit(self, record):
        records.append(record)


logging.basicConfig(level=logging.INFO, handlers=[Handler()])


def send(text):
    sender.execute("SELECT pg_notify('jobs', %s)", [text])


def end(pid):
    sender.execute("SELECT pg_terminate_backend(%s, 5000)", [pid])


async def listen():
    asyncio.get_running_loop().set_exception_handler(lambda _, context: exceptions.append(context))
    connection = await asyncpg.connect(url)
    queue = asyncio.Queue()
    await connection.add_listener("jobs", lambda *arguments: queue.put_nowait(arguments[3]))
    send("first")
    got = await asyncio.wait_for(queue.get(), 10)
    end(connection.get_server_pid())
    while not connection.is_closed():  # it has read the end
        await asyncio.sleep(0.05)
    send("second")
    await asyncio.sleep(1)
    rest = queue.get_nowait() if queue.qsize() else "nothing"
    closed = connection.is_closed()
    return f"got {got}, then {rest}; log records {len(records)}, exceptions {len(exceptions)}, is_closed {closed}"


print(f"asyncpg: {asyncio.run(asyncio.wait_for(listen(), 40))}", end="; ")
connection = psycopg.connect(url, autocommit=True)
connection.execute("LISTEN jobs")
send("first")
notifies = connection.notifies(timeout=10)
got = next(notifies).payload
end(connection.info.backend_pid)
try:
    rest = next(notifies, "nothing")
except psycopg.Error as error:
    rest = type(error).__name__
print(f"psycopg: got {got}, then {rest}")
P
seen=$(timeout 60 v/bin/python t.py "$port")
echo "seen: $seen"
expected="asyncpg: got first, then nothing; log records 0, exceptions 0, is_closed True"
if [ "$seen" = "$expected; psycopg: got first, then OperationalError" ]; then echo "as stated"; else echo "changed"; exit 1; fi
