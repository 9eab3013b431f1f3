#!/usr/bin/env bash
# CPython 3.11 with httpx 0.28.1, aiohttp 3.14.5 and uvloop 0.23.0 (PyPI). 2026-11-29.
# As many calls of `asyncio.to_thread` as the default executor has threads (processors + 4) wait for something. Meanwhile
# each new connection to a name fails: asyncio looks names up in the same threads, so that httpx and aiohttp report a
# connection that timed out, to `localhost` too. An address in figures works, and so do names under uvloop.
# Most would expect: the event loop is free, so requests go on; nothing shows that looking up a name needs a thread there.
# Seen: asyncio: 127.0.0.1 ok, localhost ConnectTimeout, by aiohttp TimeoutError; uvloop: 127.0.0.1 ok, localhost ok, by aiohttp ok
# Why an agent runtime meets it: sync tools run by `to_thread`, and on a machine with two processors six slow ones are
# enough. Providers look dead meanwhile, are taken out of rotation, and retries make it worse. A test with local
# addresses, or in a server that uvicorn starts on uvloop, does not show it.
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT
cd "$dir"
cat > t.py <<'P'
import asyncio
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import aiohttp
import httpx
import uvloop


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()


async def ask_httpx(host):
    async with httpx.AsyncClient(timeout=3) as client:
        try:
            await client.get(f"http://{host}:{server.server_port}/")
        except httpx.HTTPError as error:
            return type(error).__name__
    return "ok"


async def ask_aiohttp(host):
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(3)) as session:
        try:
            async with session.get(f"http://{host}:{server.server_port}/"):
                return "ok"
        except TimeoutError:
            return "TimeoutError"


async def main():
    end = threading.Event()
    count = min(32, (getattr(os, "process_cpu_count", os.cpu_count)() or 1) + 4)
    tools = [asyncio.create_task(asyncio.to_thread(end.wait, 60)) for _ in range(count)]
    await asyncio.sleep(0.5)
    try:
        number, name, other = await ask_httpx("127.0.0.1"), await ask_httpx("localhost"), await ask_aiohttp("localhost")
        return f"127.0.0.1 {number}, localhost {name}, by aiohttp {other}"
    finally:
        end.set()
        await asyncio.gather(*tools)


plain = asyncio.run(main())
with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
    print(f"asyncio: {plain}; uvloop: {runner.run(main())}")
P
python3 -m venv v
v/bin/pip install -q --disable-pip-version-check httpx==0.28.1 aiohttp==3.14.5 uvloop==0.23.0
seen=$(timeout 60 v/bin/python t.py)
echo "seen: $seen"
expected="asyncio: 127.0.0.1 ok, localhost ConnectTimeout, by aiohttp TimeoutError"
expected="$expected; uvloop: 127.0.0.1 ok, localhost ok, by aiohttp ok"
if [ "$seen" = "$expected" ]; then echo "as stated"; else echo "changed"; exit 1; fi
