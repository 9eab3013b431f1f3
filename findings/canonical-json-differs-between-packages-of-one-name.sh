#!/usr/bin/env bash
# canonicaljson 2.0.0 and rfc8785 0.1.4 (PyPI), canonicalize 4.0.0 and json-stable-stringify 1.3.0 (npm), Go 1.26's
# encoding/json. 2026-11-29.
# Each writes JSON with sorted keys and no spaces, for hashes and signatures. One document, three texts: canonicaljson
# sorts keys by code points, and writes 1.0 and 1e-07; rfc8785 and both of npm sort by UTF-16 units, in which an emoji
# comes before a full-width sign, and write 1 and 1e-7; Go sorts as the first, and writes numbers as the second, but for
# `<`, which is \u003c. With keys in ASCII alone and whole numbers all agree, so that tests do.
# Most would expect: "canonical" is one form, or differs at floats alone; sorted keys are sorted the same.
# Seen: canonicaljson 1.0 1e-07 wide,emoji <; rfc8785 1 1e-7 emoji,wide <; canonicalize 1 1e-7 emoji,wide <;
# json-stable-stringify 1 1e-7 emoji,wide <; go 1 1e-7 wide,emoji \u003c; plain: 1 text
# Why an agent runtime meets it: the arguments of a call are hashed for idempotency keys, caches of tools, approvals and
# signed logs, on both sides of a wire. The key of a retry in another language is another one, and the call is made twice.
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv v
v/bin/pip install -q --disable-pip-version-check canonicaljson==2.0.0 rfc8785==0.1.4
npm init -y > /dev/null
npm i --no-audit --no-fund --silent canonicalize@4.0.0 json-stable-stringify@1.3.0
printf '{"\xf0\x9f\x98\x80": 1, "\xef\xbd\x9e": 2, "usd": 1.0, "small": 0.0000001, "text": "a<b"}\n' > odd
printf '{"item": "lamp", "count": 2, "to": ["Ann"]}\n' > plain
cat > t.py <<'P'
import json
import sys

import canonicaljson
import rfc8785

value = json.load(open(sys.argv[1]))
print("canonicaljson", canonicaljson.encode_canonical_json(value).decode())
print("rfc8785", rfc8785.dumps(value).decode())
P
cat > t.mjs <<'J'
import { readFileSync } from 'node:fs'
import canonicalize from 'canonicalize'
import stringify from 'json-stable-stringify'
const value = JSON.parse(readFileSync(process.argv[2], 'utf8'))
console.log('canonicalize', canonicalize(value))
console.log('json-stable-stringify', stringify(value))
J
cat > t.go <<'G'
package main

import (
	"encoding/json"
	"fmt"
	"os"
)

func main() {
	data, _ := os.ReadFile(os.Args[1])
	var value any
	if err := json.Unmarshal(data, &value); err != nil {
		panic(err)
	}
	text, _ := json.Marshal(value)
	fmt.Println("go", string(text))
}
G
go build -o t-go t.go
write() { v/bin/python t.py "$1"; node t.mjs "$1"; ./t-go "$1"; }
cat > describe.py <<'P'
import re
import sys

seen = []
for line in sys.stdin:
    name, text = line.rstrip("\n").split(" ", 1)
    usd = re.search(r'"usd":([^,}]+)', text).group(1)
    small = re.search(r'"small":([^,}]+)', text).group(1)
    order = "emoji,wide" if text.index("\U0001f600") < text.index("\uff5e") else "wide,emoji"
    less = re.search(r'"a(.*)b"', text).group(1)
    seen.append(f"{name} {usd} {small} {order} {less}")
print("; ".join(seen), end="; ")
P
go version; node --version; v/bin/pip list --disable-pip-version-check 2>/dev/null | grep -E '^(canonicaljson|rfc8785) '
write odd
texts=$(write plain | cut -d' ' -f2- | sort -u | wc -l)
seen="$(write odd | v/bin/python describe.py)plain: $texts text"
echo "seen: $seen"
expected='canonicaljson 1.0 1e-07 wide,emoji <; rfc8785 1 1e-7 emoji,wide <; canonicalize 1 1e-7 emoji,wide <; '
expected="$expected"'json-stable-stringify 1 1e-7 emoji,wide <; go 1 1e-7 wide,emoji \u003c; plain: 1 text'
if [ "$seen" = "$expected" ]; then echo "as stated"; else echo "changed"; exit 1; fi
