#!/usr/bin/env bash
# psycopg-pool 3.3.3 with psycopg 3.3.9, and asyncpg 0.32.0 (PyPI) on PostgreSQL 15 (Debian package postgresql-15, already
# installed). 2026-11-29.
# `with pool.connection() as c` takes a lock by `pg_try_advisory_lock(1)`, works, and ends; all is committed, and no
# unlock is called. The session goes back into the pool with its lock. The next borrower of that session gets the lock
# too, since it is the session's; one of another session does not, until the pool closes. What SET changed stays as well.
# asyncpg's pool resets a session when it comes back: nobody has the lock, and the setting is that of before.
# Most would expect: the end of the block gives back what was taken in it, as asyncpg does; psycopg's has a `reset=` for
# that, which does nothing unless one is passed.
# Seen: psycopg: next in the pool gets it, another process does not, timeout 77s; asyncpg: next in the pool gets it,
# another process gets it, timeout 0
# Why an agent runtime meets it: tools guard what may happen once by such a lock. With one connection in the pool, as in
# tests, each caller gets it and two at once do too; with ten, all other workers wait for an idle connection.
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
v/bin/pip install -q --disable-pip-version-check 'psycopg[binary]==3.3.9' psycopg-pool==3.3.3 asyncpg==0.32.0
port=$(python3 -c 'import socket; s=socket.socket(); s.bind(("127.0.0.1",0)); print(s.getsockname()[1])')
"${as[@]}" "$bin/initdb" -D "$dir/data" -U tester -A trust -E UTF8 --locale=C > /dev/null
"${as[@]}" "$bin/postgres" -D "$dir/data" -c listen_addresses=127.0.0.1 -c port="$port" -c unix_socket_directories= \
    > log 2>&1 &
pid=$!
for _ in $(seq 100); do "$bin/pg_isready" -q -h 127.0.0.1 -p "$port" && break; sleep 0.2; done
cat > t.py <<'P'
import asyncio
import sys

import asyncpg
import psycopg
from psycopg_pool import ConnectionPool

url = f"postgresql://tester@127.0.0.1:{sys.argv[1]}/postgres"
LOCK, CHANGE, SHOW = "SELECT pg_try_advisory_lock(1)", "SET statement_timeout = '77s'", "SHOW statement_timeout"


def say(who, has_lock):
    return f"{who} {'gets it' if has_lock else 'does not'}"


def ask_elsewhere():
    with psycopg.connect(url) as other:
        return other.execute(LOCK).fetchone()[0]


with ConnectionPool(url, min_size=1, max_size=1, open=True) as pool:
    with pool.connection() as session:
        assert session.execute(LOCK).fetchone()[0]
        session.execute(CHANGE)
    elsewhere = ask_elsewhere()
    with pool.connection() as session:
        again = session.execute(LOCK).fetchone()[0]
        timeout = session.execute(SHOW).fetchone()[0]
print(
    f"psycopg: {say('next in the pool', again)}, {say('another process', elsewhere)}, timeout {timeout}", end="; "
)


async def main():
    async with asyncpg.create_pool(url, min_size=1, max_size=1) as pool:
        async with pool.acquire() as session:
            assert await session.fetchval(LOCK)
            await session.execute(CHANGE)
        elsewhere = await asyncio.to_thread(ask_elsewhere)
        async with pool.acquire() as session:
            again, timeout = await session.fetchval(LOCK), await session.fetchval(SHOW)
    print(f"asyncpg: {say('next in the pool', again)}, {say('another process', elsewhere)}, timeout {timeout}")


asyncio.run(main())
P
seen=$(timeout 60 v/bin/python t.py "$port")
echo "seen: $seen"
expected="psycopg: next in the pool gets it, another process does not, timeout 77s"
expected="$expected; asyncpg: next in the pool gets it, another process gets it, timeout 0"
if [ "$seen" = "$expected" ]; then echo "as stated"; else echo "changed"; exit 1; fi
