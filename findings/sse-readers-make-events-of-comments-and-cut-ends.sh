#!/usr/bin/env bash
# httpx-sse 0.4.3 and sseclient-py 1.9.0 (PyPI), eventsource-parser 3.1.1 (npm). 2026-11-29.
# One stream of server-sent events, three readers. httpx-sse makes an event with empty data of each event without data and,
# as soon as one had an id, of each comment, which servers send to keep a connection alive; without ids it does not.
# sseclient-py makes an event of a last one whose end never came. eventsource-parser does neither.
# Most would expect: the rules of the HTML standard, which all three name: no event without data, and what has no blank
# line behind it when the stream ends is dropped.
# Seen: httpx-sse: {"n": 1} '' {"n": 2} ''; without ids: {"n": 1} {"n": 2} ''; sseclient-py: {"n": 1} {"n": 2} {"n";
# eventsource-parser: {"n": 1} {"n": 2}
# Why an agent runtime meets it: streams of models, of tools and of tasks are read as JSON. A keep-alive is "Expecting
# value", but only for servers that number their events, and only when idle; a cut connection hands over half an event.
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv v
v/bin/pip install -q --disable-pip-version-check httpx==0.28.1 httpx-sse==0.4.3 sseclient-py==1.9.0
npm init -y > /dev/null
npm i --no-audit --no-fund --silent eventsource-parser@3.1.1
printf 'id: 1\ndata: {"n": 1}\n\n: keep-alive\n\nid: 2\ndata: {"n": 2}\n\nevent: done\n\ndata: {"n"' > stream
cat > t.py <<'P'
import httpx
import sseclient
from httpx_sse import EventSource

STREAM = open("stream", "rb").read()


def read(stream):
    response = httpx.Response(200, headers={"content-type": "text/event-stream"}, content=stream)
    return " ".join(event.data or "''" for event in EventSource(response).iter_sse())


print("httpx-sse:", read(STREAM) + "; without ids:", read(STREAM.replace(b"id: ", b"x: ")), end="; ")
print("sseclient-py:", " ".join(event.data or "''" for event in sseclient.SSEClient(iter([STREAM])).events()), end="; ")
P
cat > t.mjs <<'J'
import { readFileSync } from 'node:fs'
import { createParser } from 'eventsource-parser'
const events = []
createParser({ onEvent: (event) => events.push(event.data || "''") }).feed(readFileSync('stream', 'utf8'))
console.log(`eventsource-parser: ${events.join(' ')}`)
J
v/bin/pip list --disable-pip-version-check 2>/dev/null | grep sse | tr -s ' '
npm ls --depth 0 | grep -o 'eventsource-parser@.*'
seen="$(v/bin/python t.py)$(node t.mjs)"
echo "seen: $seen"
expected="httpx-sse: {\"n\": 1} '' {\"n\": 2} ''; without ids: {\"n\": 1} {\"n\": 2} ''; sseclient-py: {\"n\": 1} {\"n\": 2} {\"n\"; "
if [ "$seen" = "${expected}eventsource-parser: {\"n\": 1} {\"n\": 2}" ]; then echo "as stated"; else echo "changed"; exit 1; fi
