#!/usr/bin/env bash
# httpx 0.28.1, requests 2.34.2 and httpx-sse 0.4.3 (PyPI). 2026-11-29.
# A server streams events, each `data: ` with JSON on one line. A text has U+2028, which models and web pages write, and
# which JSON allows as it is; in the stream it is no end of a line either. `iter_lines()` and `aiter_lines()` of httpx,
# and `iter_lines(decode_unicode=True)` of requests, split there (and at U+0085, U+000B, U+000C, U+001C to U+001E), so
# that the first half of the JSON is one line and the rest another. httpx-sse, and requests with bytes, do not.
# Most would expect: lines of a stream end at LF or CRLF, as all reading loops for streams of models assume.
# Seen: httpx: 2 lines, no JSON; httpx async: 2 lines, no JSON; requests: 2 lines, no JSON; requests, bytes: 1 line, JSON;
# httpx-sse: 1 line, JSON
# Why an agent runtime meets it: `async for line in response.aiter_lines()` with `json.loads(line[6:])` is how tools and
# adapters read such streams. One answer in thousands has that character: it fails, or loses a piece where errors are
# skipped, and each retry gets the same.
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT
cd "$dir"
cat > t.py <<'P'
import asyncio
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import httpx_sse
import requests

EVENT = "data: " + json.dumps({"text": "one\u2028two"}, ensure_ascii=False) + "\n\n"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.end_headers()
        self.wfile.write(EVENT.encode())

    def log_message(self, *_):
        pass


def judge(lines):
    lines = [line.decode() if isinstance(line, bytes) else line for line in lines if line]
    try:
        is_json = json.loads(lines[0].removeprefix("data: ")) == {"text": "one\u2028two"}
    except ValueError:
        is_json = False
    return f"{len(lines)} line{'s' * (len(lines) > 1)}, {'' if is_json else 'no '}JSON"


async def read_async(url):
    async with httpx.AsyncClient() as client, client.stream("GET", url) as response:
        return [line async for line in response.aiter_lines()]


server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
url = f"http://127.0.0.1:{server.server_port}/"
with httpx.stream("GET", url) as response:
    seen = [f"httpx: {judge(response.iter_lines())}"]
seen.append(f"httpx async: {judge(asyncio.run(read_async(url)))}")
with requests.get(url, stream=True) as response:
    seen.append(f"requests: {judge(response.iter_lines(decode_unicode=True))}")
with requests.get(url, stream=True) as response:
    seen.append(f"requests, bytes: {judge(response.iter_lines())}")
with httpx.Client() as client, httpx_sse.connect_sse(client, "GET", url) as source:
    seen.append(f"httpx-sse: {judge([event.data for event in source.iter_sse()])}")
print("; ".join(seen))
P
python3 -m venv v
v/bin/pip install -q --disable-pip-version-check httpx==0.28.1 requests==2.34.2 httpx-sse==0.4.3
seen=$(timeout 60 v/bin/python t.py)
echo "seen: $seen"
expected="httpx: 2 lines, no JSON; httpx async: 2 lines, no JSON; requests: 2 lines, no JSON"
expected="$expected; requests, bytes: 1 line, JSON; httpx-sse: 1 line, JSON"
if [ "$seen" = "$expected" ]; then echo "as stated"; else echo "changed"; exit 1; fi
