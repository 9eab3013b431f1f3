#!/usr/bin/env bash
# PostgreSQL 15 (Debian package postgresql-15, already installed), psycopg 3.3.9 and asyncpg 0.32.0 (PyPI). 2026-11-29.
# A time in microseconds, 1795979513951767, has 16 digits and is exact as a float8: as text, as bigint and in jsonb all
# are there. Cast to numeric, or put into a numeric column, it is 1795979513951770: the cast keeps 15 significant digits.
# Two drivers differ for that reason: psycopg sends a Python float as float8, and the server rounds it; asyncpg sends it
# as numeric, with all of its binary digits. 0.1 + 0.2 is 0.3 by the one and 0.3000000000000000444... by the other.
# Most would expect: numeric is the exact type, so what goes into it stays; since PostgreSQL 12 floats print exactly.
# Seen: text 1.795979513951767e+15, bigint 1795979513951767, jsonb 1795979513951767, numeric 1795979513951770, equal False;
# psycopg 1795979513951770 and 0.3, asyncpg 1795979513951767 and 0.3000000000000000444089209850062616169452667236328125
# Why an agent runtime meets it: times, token counts and costs come as JSON numbers, so as floats, and ledgers keep them
# in numeric columns. Ids made of times stop matching, and two services with two drivers book different sums.
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
import sys

import asyncpg
import psycopg

url = f"postgresql://tester@127.0.0.1:{sys.argv[1]}/postgres"
MICROSECONDS = 1795979513951767.0
connection = psycopg.connect(url, autocommit=True)
text, bigint, jsonb, numeric, equal = connection.execute(
    "SELECT x::text, x::bigint, to_jsonb(x)::text, x::numeric, x = x::numeric FROM (SELECT %s::float8 AS x) AS one",
    [MICROSECONDS],
).fetchone()
assert int(MICROSECONDS) == 1795979513951767
print(f"text {text}, bigint {bigint}, jsonb {jsonb}, numeric {numeric}, equal {equal}")
connection.execute("CREATE TABLE ledger (id INT, amount NUMERIC)")
for number, amount in enumerate((MICROSECONDS, 0.1 + 0.2)):
    connection.execute("INSERT INTO ledger VALUES (%s, %s)", [number, amount])


async def insert():
    other = await asyncpg.connect(url)
    for number, amount in enumerate((MICROSECONDS, 0.1 + 0.2), 2):
        await other.execute("INSERT INTO ledger VALUES ($1, $2)", number, amount)
    await other.close()


asyncio.run(insert())
amounts = [amount for [amount] in connection.execute("SELECT amount::text FROM ledger ORDER BY id")]
print(f"psycopg {amounts[0]} and {amounts[1]}, asyncpg {amounts[2]} and {amounts[3]}")
P
seen=$(timeout 60 v/bin/python t.py "$port")
echo "seen: $seen"
expected="text 1.795979513951767e+15, bigint 1795979513951767, jsonb 1795979513951767, numeric 1795979513951770, equal False
psycopg 1795979513951770 and 0.3, asyncpg 1795979513951767 and 0.3000000000000000444089209850062616169452667236328125"
if [ "$seen" = "$expected" ]; then echo "as stated"; else echo "changed"; exit 1; fi
