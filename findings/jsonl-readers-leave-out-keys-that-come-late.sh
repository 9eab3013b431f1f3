#!/usr/bin/env bash
# polars 2.1.0, duckdb 2.0.1, pandas 3.1.1, pyarrow 26.0.1 (PyPI). 2026-11-29.
# A log of 30,000 lines of JSON; from line 25,001 on each has the key `error`. polars takes the columns from the first 100
# lines, DuckDB from the first 20,480, and both leave `error` out of all lines, without an error or a warning; so does
# `polars.DataFrame` for a list of dicts. pandas and pyarrow have it. A value of another type in a known column is an error.
# Most would expect: the sample decides about types, and a key that is not in it makes a column or an error. The
# documentation of `infer_schema_length` and `sample_size` speaks of the schema, not of data that is left out.
# Seen: polars seq event, polars dicts seq event, duckdb seq event; pandas seq event error, pyarrow seq event error;
# polars whole seq event error, duckdb whole seq event error 5000
# Why an agent runtime meets it: logs of events and traces are lines of JSON, in which what matters is rare and late: an
# error, a refusal, a cost. A report of failures counts none, or says that there is no such column, and looks healthy.
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv v
v/bin/pip install -q --disable-pip-version-check polars==2.1.0 duckdb==2.0.1 pandas==3.1.1 pyarrow==26.0.1
v/bin/pip list --disable-pip-version-check 2>/dev/null | grep -E '^(polars|duckdb|pandas|pyarrow) '
cat > t.py <<'P'
import json

import duckdb
import pandas
import polars
import pyarrow.json

LINES = [{"seq": n, "event": "step"} | ({"error": "timeout"} if n >= 25_000 else {}) for n in range(30_000)]
with open("log.jsonl", "w") as file:
    file.writelines(json.dumps(line) + "\n" for line in LINES)


def columns(query):
    return " ".join(column[0] for column in duckdb.sql(query).description)


names = {
    "polars": polars.read_ndjson("log.jsonl").columns,
    "polars dicts": polars.DataFrame(LINES).columns,
}
seen = [f"{name} {' '.join(found)}" for name, found in names.items()]
seen.append("duckdb " + columns("SELECT * FROM 'log.jsonl'"))
whole = "read_json('log.jsonl', sample_size = -1)"
errors = duckdb.sql(f"SELECT count(error) FROM {whole}").fetchall()[0][0]
print(
    ", ".join(seen) + ";",
    "pandas " + " ".join(pandas.read_json("log.jsonl", lines=True).columns) + ",",
    "pyarrow " + " ".join(pyarrow.json.read_json("log.jsonl").column_names) + ";",
    "polars whole " + " ".join(polars.read_ndjson("log.jsonl", infer_schema_length=None).columns) + ",",
    f"duckdb whole {columns(f'SELECT * FROM {whole}')} {errors}",
)
P
seen=$(timeout 120 v/bin/python -W error t.py)
echo "seen: $seen"
expected="polars seq event, polars dicts seq event, duckdb seq event; pandas seq event error, pyarrow seq event error;"
if [ "$seen" = "$expected polars whole seq event error, duckdb whole seq event error 5000" ]; then echo "as stated"; else echo "changed"; exit 1; fi
