#!/usr/bin/env bash
# psycopg 3.3.9 (PyPI) on PostgreSQL 15 (Debian package postgresql-15, already installed). 2026-11-28.
# `UPDATE accounts SET cents = cents + %s * %s`, where the column is a bigint: 100 x 200 works, 200 x 200 fails with
# "smallint out of range", and 200 x 40000 works again. psycopg sends each integer as the smallest type that holds it,
# so that two small ones are multiplied as smallint, whatever the product is added to.
# The same statement through the same library's ClientCursor, which writes numbers into the text, works for all three.
# Most would expect: a Python int does not overflow at 32,767, and no larger number works where a smaller one fails. The
# documentation has a table of the types that it chooses by value, and names no arithmetic.
# Seen: Cursor: 100 x 200 ok, 200 x 200 NumericValueOutOfRange, 200 x 40000 ok; ClientCursor: all ok
# Why an agent runtime meets it: tokens times price, and attempts times delay, are such products. Tests with small numbers
# pass and so do large bills; what is between ends the transaction that was to settle the call.
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

PRODUCTS = ((100, 200), (200, 200), (200, 40000))
url = f"postgresql://tester@127.0.0.1:{sys.argv[1]}/postgres"
connection = psycopg.connect(url, autocommit=True)
connection.execute("CREATE TABLE accounts (cents bigint)")
connection.execute("INSERT INTO accounts VALUES (0)")


def settle(cursor, tokens, price):
    try:
        cursor.execute("UPDATE accounts SET cents = cents + %s * %s", (tokens, price))
    except psycopg.Error as error:
        return type(error).__name__
    return "ok"


for kind in (psycopg.Cursor, psycopg.ClientCursor):
    results = [f"{tokens} x {price} {settle(kind(connection), tokens, price)}" for tokens, price in PRODUCTS]
    print(f"{kind.__name__}: {', '.join(results)}")
P
seen=$(timeout 60 v/bin/python t.py "$port")
echo "seen:"; echo "$seen"
expected="Cursor: 100 x 200 ok, 200 x 200 NumericValueOutOfRange, 200 x 40000 ok
ClientCursor: 100 x 200 ok, 200 x 200 ok, 200 x 40000 ok"
if [ "$seen" = "$expected" ]; then echo "as stated"; else echo "changed"; exit 1; fi
