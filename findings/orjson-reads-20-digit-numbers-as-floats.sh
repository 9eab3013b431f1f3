#!/usr/bin/env bash
# orjson 3.13.0 (PyPI); json of Python 3.11, msgspec 0.22.0 and pydantic-core 2.50.5 beside it. 2026-11-28.
# orjson refuses to write an integer beyond 64 bits, by an error. It reads one without an error, as the nearest float:
# its last digits are others, and no option turns that off. 19 digits arrive as they are. The other three keep them all.
# Most would expect: the error in both directions, since its documentation has integers of 64 bits, or the integer.
# Seen: 98765432109876543210 is 9.876543210987654e+19 by orjson, and itself by the others; orjson.dumps of it raises
# Why an agent runtime meets it: order, card and tracking numbers have 20 digits and more, models write them into the
# arguments of tools without quotes, and orjson is what is taken where JSON shall be fast. A tool that formats such a
# number names another parcel, and a journal keeps the wrong one.
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv v
v/bin/pip install -q --disable-pip-version-check orjson==3.13.0 msgspec==0.22.0 pydantic-core==2.50.5
cat > t.py <<'P'
import json

import msgspec
import orjson
import pydantic_core


readers = {
    "json": json.loads,
    "msgspec": msgspec.json.decode,
    "pydantic-core": pydantic_core.from_json,
    "orjson": orjson.loads,
}
for number in (1234567890123456789, 98765432109876543210):
    values = [f"{name} {read(str(number))}" for name, read in readers.items()]
    print(f"{len(str(number))} digits: {', '.join(values)}")
try:
    orjson.dumps(98765432109876543210)
except TypeError as error:
    print(f"written: {type(error).__name__}")
P
seen=$(timeout 60 v/bin/python t.py)
echo "seen:"; echo "$seen"
expected="19 digits: json 1234567890123456789, msgspec 1234567890123456789, \
pydantic-core 1234567890123456789, orjson 1234567890123456789
20 digits: json 98765432109876543210, msgspec 98765432109876543210, \
pydantic-core 98765432109876543210, orjson 9.876543210987654e+19
written: TypeError"
if [ "$seen" = "$expected" ]; then echo "as stated"; else echo "changed"; exit 1; fi
