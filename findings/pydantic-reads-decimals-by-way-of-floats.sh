#!/usr/bin/env bash
# pydantic 2.14.3 with pydantic-core 2.50.4 and msgspec 0.22.0 (PyPI). 2026-11-29.
# A model has a field `usd: Decimal`, and the JSON a number. `model_validate_json` reads it as a float and makes a decimal
# of that: beyond 17 digits it is another amount, and its trailing zeros are gone. A text in quotes keeps all digits, and
# msgspec keeps them for the number too, as json does with `parse_float=Decimal`. Nothing warns, and `strict` changes nothing.
# Most would expect: a field that says Decimal, and a parser that knows it, so that no float comes between.
# Seen: 12345678901234567.89 is 12345678901234568, 1.10 is 1.1; as text 12345678901234567.89, 1.10;
# msgspec 12345678901234567.89, 1.10
# Why an agent runtime meets it: amounts and balances in tokens of 18 digits come from APIs as JSON numbers, and go into
# tools by models with Decimal, which are there so that no cent is lost. Sums of checks over digits (hashes, signatures
# of a payload that is written again) differ too.
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT
cd "$dir"
cat > t.py <<'P'
from decimal import Decimal

import msgspec
import pydantic

AMOUNTS = ("12345678901234567.89", "1.10")


class Model(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(strict=True)
    usd: Decimal


class Struct(msgspec.Struct):
    usd: Decimal


numbers = [f'{{"usd": {amount}}}' for amount in AMOUNTS]
texts = [f'{{"usd": "{amount}"}}' for amount in AMOUNTS]
pairs = zip(AMOUNTS, numbers, strict=True)
print(", ".join(f"{amount} is {Model.model_validate_json(text).usd}" for amount, text in pairs), end="; as text ")
print(", ".join(str(Model.model_validate_json(text).usd) for text in texts), end="; msgspec ")
print(", ".join(str(msgspec.json.decode(text, type=Struct).usd) for text in numbers))
P
python3 -m venv v
v/bin/pip install -q --disable-pip-version-check pydantic==2.14.3 pydantic-core==2.50.4 msgspec==0.22.0
seen=$(timeout 60 v/bin/python t.py)
echo "seen: $seen"
expected="12345678901234567.89 is 12345678901234568, 1.10 is 1.1; as text 12345678901234567.89, 1.10"
if [ "$seen" = "$expected; msgspec 12345678901234567.89, 1.10" ]; then echo "as stated"; else echo "changed"; exit 1; fi
