#!/usr/bin/env bash
# SQLite 3.54.1 and 3.40.0 (wheels apsw 3.54.1.0 and 3.40.0.0, PyPI). 2026-11-28.
# An index on json_extract(body, '$.task') serves a comparison with a parameter, and is passed by where the other side
# is a column of type TEXT, or a subquery that selects one: each row of the outer table then scans the whole inner one.
# With `id || ''` in place of `id` the index is used. INDEXED BY fails with "no query solution".
# Most would expect: the two sides have the same type at each row, and an index that fits one comparison fits both.
# The cause: a column gives its affinity to a bare expression (datatype3, 4.2), and the index was built without it.
# Seen, in both: parameter SEARCH, column SCAN, subquery SCAN, column || '' SEARCH
# Why an agent runtime meets it: it keeps events as JSON and finds those of a task by such an index. The query by one
# id is fast, so the index seems to work; the join for a list or a clean-up takes the square of the history.
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT
cd "$dir"
cat > t.py <<'P'
import apsw

db = apsw.Connection(":memory:")
db.execute(
    """
    CREATE TABLE tasks (id TEXT PRIMARY KEY);
    CREATE TABLE events (body TEXT);
    CREATE INDEX events_by_task ON events (json_extract(body, '$.task'));
    """
)
FIELD = "json_extract(e.body, '$.task')"
queries = {
    "parameter": f"SELECT count(*) FROM events e WHERE {FIELD} = ?1",
    "column": f"SELECT count(*) FROM tasks t LEFT JOIN events e ON {FIELD} = t.id WHERE ?1",
    "subquery": f"SELECT count(*) FROM events e WHERE {FIELD} = (SELECT id FROM tasks WHERE id = ?1)",
    "column || ''": f"SELECT count(*) FROM tasks t LEFT JOIN events e ON {FIELD} = t.id || '' WHERE ?1",
}
plans = []
for name, query in queries.items():
    steps = [row[3] for row in db.execute("EXPLAIN QUERY PLAN " + query, ("a",))]
    step = next(step for step in steps if step.split()[1] in ("e", "events"))
    plans.append(f"{name} {step.split()[0]}")
print(f"{apsw.sqlitelibversion()}: {', '.join(plans)}")
P
seen=
for release in 3.40.0.0 3.54.1.0; do
    python3 -m venv "$release"
    "$release/bin/pip" install -q --disable-pip-version-check --only-binary :all: "apsw==$release"
    seen="$seen; $(timeout 60 "$release/bin/python" t.py)"
done
seen=${seen#; }
echo "seen: $seen"
plans="parameter SEARCH, column SCAN, subquery SCAN, column || '' SEARCH"
expected="3.40.0: $plans; 3.54.1: $plans"
if [ "$seen" = "$expected" ]; then echo "as stated"; else echo "changed"; exit 1; fi
