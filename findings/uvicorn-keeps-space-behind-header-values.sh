#!/usr/bin/env bash
# uvicorn 0.54.0 with httptools 0.9.0 and with h11 0.16.0 (PyPI). 2026-11-28.
# A request has spaces and a tab behind the value of a header. With httptools, which uvicorn takes where it is installed
# (`uvicorn[standard]`), the app gets them as part of the value; with h11 it does not. Space before a value is gone in both.
# Most would expect: RFC 9110 (5.5) says that a value is parsed without the white space around it, and that which parser
# is installed changes no request.
# Seen: h11: equal keys, content-type 'application/json'; httptools: other keys, content-type 'application/json \t '
# Why an agent runtime meets it: a client or proxy that pads a line makes an Idempotency-Key another one, so that a task
# that is sent again runs twice, and comparisons of types, ETags or topics fail on production's parser and pass in tests
# by an ASGI client or h11.
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv v
v/bin/pip install -q --disable-pip-version-check uvicorn==0.54.0 httptools==0.9.0 h11==0.16.0
cat > t.py <<'P'
import asyncio
import socket

import uvicorn

values = []


async def app(scope, receive, send):
    headers = dict(scope["headers"])
    values.append((headers[b"idempotency-key"], headers[b"content-type"].decode()))
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body"})


async def ask(port, end):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    lines = ("GET / HTTP/1.1", "Host: a", f"Idempotency-Key: order-7{end}", f"Content-Type: application/json{end}")
    writer.write("\r\n".join((*lines, "Connection: close", "", "")).encode())
    await reader.read()
    writer.close()


async def main():
    for parser in ("h11", "httptools"):
        listener = socket.create_server(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, http=parser, lifespan="off", log_level="error"))
        serving = asyncio.create_task(server.serve([listener]))
        values.clear()
        for end in ("", " \t "):
            await asyncio.wait_for(ask(listener.getsockname()[1], end), 30)
        server.should_exit = True
        await serving
        (first, _), (second, kind) = values
        print(f"{parser}: {'equal' if first == second else 'other'} keys, content-type {kind!r}")


asyncio.run(main())
P
seen=$(timeout 60 v/bin/python t.py)
echo "seen:"; echo "$seen"
expected="h11: equal keys, content-type 'application/json'
httptools: other keys, content-type 'application/json \\t '"
if [ "$seen" = "$expected" ]; then echo "as stated"; else echo "changed"; exit 1; fi
