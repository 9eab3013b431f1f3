#!/usr/bin/env bash
# PostgreSQL 15 (Debian package postgresql-15, already installed), psycopg 3.3.9 (PyPI). 2026-11-29.
# `to_tsvector` reads the 4 of "gpt-4" as the number -4, and so the parts of "2026-11-29" and "INC-2041". The one who
# looks for "gpt 4", for "2041" or for "2026 11" finds nothing; "4o" and "INC" are found, as letters join no minus. In
# "11-29" of a range it is the second number alone.
# Most would expect: a hyphen separates words, as between letters and in SQLite's FTS5; the documentation lists the token
# type `int`, a signed integer, and says nothing of hyphens before digits.
# Seen: gpt-4: '-4' 'gpt'; gpt-4o: '4o' 'gpt' 'gpt-4o'; INC-2041: '-2041' 'inc'; due 2026-11-29: '-11' '-29' '2026' 'due';
# found: gpt 4 False, gpt 4o True, 2041 False, inc True, 2026 11 False, 2026 True; fts5 found: True True True True True True
# Why an agent runtime meets it: names of models, tickets, orders and dates are what memories and tasks are looked up by.
# An agent on SQLite remembers INC-2041 by its number; the same agent on PostgreSQL says that it knows nothing of it.
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
echo "$("$bin/postgres" --version), $(v/bin/pip list --disable-pip-version-check 2>/dev/null | grep -iE '^(psycopg|asyncpg) ' | tr -s " " | paste -sd,)"
cat > t.py <<'P'
import sqlite3
import sys

import psycopg

connection = psycopg.connect(f"postgresql://tester@127.0.0.1:{sys.argv[1]}/postgres", autocommit=True)
fts = sqlite3.connect(":memory:")
fts.execute("CREATE VIRTUAL TABLE notes USING fts5(text)")
NOTES = ("gpt-4", "gpt-4o", "INC-2041", "due 2026-11-29")
QUERIES = (("gpt-4", "gpt 4"), ("gpt-4o", "gpt 4o"), ("INC-2041", "2041"), ("INC-2041", "inc"))
QUERIES = (*QUERIES, ("due 2026-11-29", "2026 11"), ("due 2026-11-29", "2026"))
words = []
for note in NOTES:
    fts.execute("INSERT INTO notes VALUES (?)", [note])
    [vector] = connection.execute("SELECT tsvector_to_array(to_tsvector('english', %s))", [note]).fetchone()
    words.append(f"{note}: " + " ".join(repr(word) for word in vector))
print("; ".join(words))
found, found_by_fts = [], []
for note, query in QUERIES:
    match = "SELECT to_tsvector('english', %s) @@ websearch_to_tsquery('english', %s)"
    found.append(f"{query} {connection.execute(match, [note, query]).fetchone()[0]}")
    rows = fts.execute("SELECT 1 FROM notes WHERE text = ? AND notes MATCH ?", [note, query]).fetchall()
    found_by_fts.append(str(bool(rows)))
print("found:", ", ".join(found) + "; fts5 found:", " ".join(found_by_fts))
P
seen=$(timeout 60 v/bin/python t.py "$port")
echo "seen: $seen"
expected="gpt-4: '-4' 'gpt'; gpt-4o: '4o' 'gpt' 'gpt-4o'; INC-2041: '-2041' 'inc'; due 2026-11-29: '-11' '-29' '2026' 'due'
found: gpt 4 False, gpt 4o True, 2041 False, inc True, 2026 11 False, 2026 True; fts5 found: True True True True True True"
if [ "$seen" = "$expected" ]; then echo "as stated"; else echo "changed"; exit 1; fi
