#!/usr/bin/env bash
# jsonschema 4.26.0, jsonschema-rs 0.61.2, fastjsonschema 2.22.3, pydantic 2.14.4, msgspec 0.22.0 (PyPI), ajv 8.20.0
# (npm). 2026-11-28.
# An amount has `"multipleOf": 0.01`. Of the 10,000 amounts from 0.01 to 100.00, jsonschema and ajv refuse 1,363, among
# them 19.99, since they divide in binary floating point; msgspec takes 14. The other three take them all.
# Most would expect: a valid amount is valid everywhere. JSON Schema (validation, 6.2.1) asks whether the division gives
# an integer, and its numbers are decimal texts without a precision.
# Seen: jsonschema 8637, jsonschema-rs 10000, fastjsonschema 10000, pydantic 10000, msgspec 14, ajv 8637;
#   19.99: no, yes, yes, yes, no, no
# Why an agent runtime meets it: this keyword tells a model that prices have two digits. A seventh of the prices is then
# answered as invalid, and the model, which sent what the schema asks for, tries another amount.
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv v
v/bin/pip install -q --disable-pip-version-check jsonschema==4.26.0 jsonschema-rs==0.61.2 fastjsonschema==2.22.3 \
    pydantic==2.14.4 msgspec==0.22.0
npm init -y > /dev/null
npm install --silent --no-fund --no-audit ajv@8.20.0
cat > t.py <<'P'
from typing import Annotated

import fastjsonschema
import jsonschema
import jsonschema_rs
import msgspec
import pydantic

SCHEMA = {"type": "number", "multipleOf": 0.01}
adapter = pydantic.TypeAdapter(Annotated[float, pydantic.Field(multiple_of=0.01)])
decoder = msgspec.json.Decoder(Annotated[float, msgspec.Meta(multiple_of=0.01)])
validators = {
    "jsonschema": jsonschema.Draft202012Validator(SCHEMA).validate,
    "jsonschema-rs": jsonschema_rs.validator_for(SCHEMA).validate,
    "fastjsonschema": fastjsonschema.compile(SCHEMA),
    "pydantic": adapter.validate_python,
    "msgspec": lambda amount: decoder.decode(str(amount)),
}


def takes(validate, amount):
    try:
        validate(amount)
    except Exception:  # each library has its own error
        return False
    return True


for name, validate in validators.items():
    count = sum(takes(validate, cents / 100) for cents in range(1, 10001))
    print(f"{name} {count}, 19.99 {'yes' if takes(validate, 19.99) else 'no'}")
P
cat > t.js <<'J'
const Ajv = require("ajv");
const validate = new Ajv().compile({ type: "number", multipleOf: 0.01 });
let count = 0;
for (let cents = 1; cents <= 10000; cents++) if (validate(cents / 100)) count++;
console.log(`ajv ${count}, 19.99 ${validate(19.99) ? "yes" : "no"}`);
J
seen="$(timeout 120 v/bin/python t.py)
$(timeout 60 node t.js)"
echo "seen:"; echo "$seen"
expected="jsonschema 8637, 19.99 no
jsonschema-rs 10000, 19.99 yes
fastjsonschema 10000, 19.99 yes
pydantic 10000, 19.99 yes
msgspec 14, 19.99 no
ajv 8637, 19.99 no"
if [ "$seen" = "$expected" ]; then echo "as stated"; else echo "changed"; exit 1; fi
