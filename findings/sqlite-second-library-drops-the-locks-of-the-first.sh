#!/usr/bin/env bash
# Python's sqlite3 module and apsw 3.54.1.0 (PyPI, with a SQLite of its own), CPython 3, Linux. 2026-11-28.
# A process is within BEGIN IMMEDIATE by one library, and another process rightly gets "database is locked". Then the
# first process opens the same file by the other library, reads a row, and closes it: its own lock is gone, and the
# other process writes and commits in the middle of the transaction, which then commits over it. One of two
# increments is lost, without an error anywhere, and `integrity_check` says ok. In WAL mode too.
# Most would expect: a reader that has closed leaves the locks of a writer alone, as it does where both use one SQLite.
# Seen: delete, wal: locked, then wrote; counter 1 of 2, ok; one library: locked, then locked; counter 1 of 1, ok
# Why an agent mesh meets it: its store is a SQLite file, and agents import what brings a SQLite of its own (apsw,
# DuckDB, vector stores). A tool that looks into a database of the same process opens the door to a second writer.
# The cause: POSIX drops all locks of a process on a file when it closes any descriptor of it; SQLite knows that and
# keeps descriptors open, within one copy of the library. The remedy: ask another process (or one library) to read.
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv v
v/bin/pip install -q --disable-pip-version-check apsw==3.54.1.0
cat > other.py <<'P'
import sqlite3
import sys

other = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=0)
try:
    other.execute("BEGIN IMMEDIATE")
    other.execute("UPDATE counter SET n = n + 1")
    other.execute("COMMIT")
    print("wrote")
except sqlite3.OperationalError as error:
    print("locked" if str(error) == "database is locked" else error)
P
cat > t.py <<'P'
import sqlite3
import subprocess
import sys

import apsw


def read_by_apsw(path):
    reader = apsw.Connection(path)
    list(reader.execute("SELECT n FROM counter"))
    reader.close()


def read_by_sqlite3(path):
    reader = sqlite3.connect(path)
    reader.execute("SELECT n FROM counter").fetchall()
    reader.close()


def race(mode, read):
    path = f"{mode}-{read.__name__}.db"
    writer = sqlite3.connect(path, isolation_level=None)
    writer.execute(f"PRAGMA journal_mode = {mode}")
    writer.execute("CREATE TABLE counter (n)")
    writer.execute("INSERT INTO counter VALUES (0)")
    writer.execute("BEGIN IMMEDIATE")
    [n] = writer.execute("SELECT n FROM counter").fetchone()

    def other():
        return subprocess.run([sys.executable, "other.py", path], capture_output=True, text=True).stdout.strip()

    before = other()
    read(path)
    after = other()
    writer.execute("UPDATE counter SET n = ?", (n + 1,))
    writer.execute("COMMIT")
    [[count]] = writer.execute("SELECT n FROM counter")
    [[check]] = writer.execute("PRAGMA integrity_check")
    return f"{before}, then {after}; counter {count} of {1 + (after == 'wrote')}, {check}"


print(f"delete: {race('delete', read_by_apsw)}")
print(f"wal: {race('wal', read_by_apsw)}")
print(f"one library: {race('wal', read_by_sqlite3)}")
P
timeout 60 v/bin/python t.py | tee seen
cat > expected <<'E'
delete: locked, then wrote; counter 1 of 2, ok
wal: locked, then wrote; counter 1 of 2, ok
one library: locked, then locked; counter 1 of 1, ok
E
if diff seen expected; then echo "as stated"; else echo "changed"; exit 1; fi
