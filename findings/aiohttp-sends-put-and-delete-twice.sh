#!/usr/bin/env bash
# aiohttp 3.14.5 (PyPI), its client with defaults; httpx 0.28.1 beside it. 2026-11-28.
# A server takes a request whole, carries it out, and closes without an answer, as one that is stopped or crashes does.
# aiohttp sends the request once more by itself where the method is GET, PUT or DELETE, also on a connection that was
# new, and reports the second answer: nothing tells the caller that there were two. POST and PATCH raise, as all do in
# httpx. No argument of a session or request turns it off.
# Most would expect: a client without a retry setting sends a request once, as httpx and requests do.
# Seen: aiohttp: GET 200 x2, PUT 200 x2, DELETE 404 x2, POST ServerDisconnectedError x1, PATCH ServerDisconnectedError x1;
#   httpx: RemoteProtocolError x1 for each of the five
# Why an agent runtime meets it: a tool that deletes or puts by HTTP is called once by the journal and twice in the
# world. A PUT may start a job again, and the repeated DELETE is answered by 404: the model hears that there was
# nothing to delete, though its own call has just deleted it. No idempotency key or log of the runtime shows it.
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv v
v/bin/pip install -q --disable-pip-version-check aiohttp==3.14.5 httpx==0.28.1
cat > t.py <<'P'
import asyncio
import socket
import threading

import aiohttp
import httpx

arrived = []


def serve(connection):
    reader = connection.makefile("rb")
    method, size = reader.readline().split()[0], 0
    while header := reader.readline().strip().lower():
        if header.startswith(b"content-length:"):
            size = int(header.split(b":")[1])
    reader.read(size)
    arrived.append(method)
    if len(arrived) > 1:  # the first was carried out, and its answer is lost
        status = b"404 Not Found" if method == b"DELETE" else b"200 OK"
        connection.sendall(b"HTTP/1.1 " + status + b"\r\ncontent-length: 0\r\n\r\n")
    connection.shutdown(socket.SHUT_RDWR)


def accept(server):
    while True:
        threading.Thread(target=serve, args=[server.accept()[0]], daemon=True).start()


async def with_aiohttp(url, method):
    async with aiohttp.ClientSession() as session:
        async with session.request(method, url, data=b"words") as reply:
            return reply.status


async def with_httpx(url, method):
    async with httpx.AsyncClient() as client:
        return (await client.request(method, url, content=b"words")).status_code


async def main():
    server = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=accept, args=[server], daemon=True).start()
    url = f"http://127.0.0.1:{server.getsockname()[1]}/"
    for name, ask in (("aiohttp", with_aiohttp), ("httpx", with_httpx)):
        seen = []
        for method in ("GET", "PUT", "DELETE", "POST", "PATCH"):
            arrived.clear()
            try:
                result = await ask(url, method)
            except (aiohttp.ClientError, httpx.HTTPError) as error:
                result = type(error).__name__
            seen.append(f"{method} {result} x{len(arrived)}")
        print(f"{name}: {', '.join(seen)}", end="; ")


asyncio.run(main())
P
seen=$(timeout 60 v/bin/python t.py)
echo "seen: $seen"
expected="aiohttp: GET 200 x2, PUT 200 x2, DELETE 404 x2, POST ServerDisconnectedError x1, PATCH ServerDisconnectedError x1; "
lost="RemoteProtocolError x1"
expected="${expected}httpx: GET $lost, PUT $lost, DELETE $lost, POST $lost, PATCH $lost; "
if [ "$seen" = "$expected" ]; then echo "as stated"; else echo "changed"; exit 1; fi
