#!/usr/bin/env bash
# httpx 0.28.1, requests 2.34.2 and aiohttp 3.14.5 (PyPI). 2026-11-29.
# A client has parameters for all its calls, `Client(params={"version": "1"})`, and follows the link `next` that a page of
# results has, `/orders?page=2`. httpx puts its parameters in place of the link's query: `/orders?version=1` is asked for,
# which is page 1 again. An empty `params={}` of a call takes the query away too. requests and aiohttp add to it.
# Most would expect: parameters are merged with those of the address, as in requests, whose interface httpx follows.
# Seen: httpx: pages 1 1 1; requests: pages 1 2 3; aiohttp: pages 1 2 3; httpx, empty params: page 1
# Why an agent runtime meets it: versions, keys and tenants are parameters of a client, and links to the next page are
# what APIs give. A tool then sums up the first page again and again, by answers with status 200, until its limit.
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT
cd "$dir"
cat > t.py <<'P'
import asyncio
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import aiohttp
import httpx
import requests


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        page = int(parse_qs(urlsplit(self.path).query).get("page", ["1"])[0])
        body = json.dumps({"page": page, "next": f"/orders?page={page + 1}"}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def read_pages(get):
    pages, link = [], "/orders"
    for _ in range(3):
        page = get(base + link)
        pages.append(str(page["page"]))
        link = page["next"]
    return " ".join(pages)


async def read_by_aiohttp():
    pages, link = [], "/orders"
    async with aiohttp.ClientSession() as session:
        for _ in range(3):
            async with session.get(base + link, params={"version": "1"}) as response:
                page = json.loads(await response.read())
            pages.append(str(page["page"]))
            link = page["next"]
    return " ".join(pages)


server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
base = f"http://127.0.0.1:{server.server_port}"
client, session = httpx.Client(params={"version": "1"}), requests.Session()
session.params = {"version": "1"}
print(
    f"httpx: pages {read_pages(lambda url: client.get(url).json())}; "
    f"requests: pages {read_pages(lambda url: session.get(url).json())}; "
    f"aiohttp: pages {asyncio.run(read_by_aiohttp())}; "
    f"httpx, empty params: page {httpx.get(base + '/orders?page=2', params={}).json()['page']}"
)
P
python3 -m venv v
v/bin/pip install -q --disable-pip-version-check httpx==0.28.1 requests==2.34.2 aiohttp==3.14.5
seen=$(timeout 60 v/bin/python t.py)
echo "seen: $seen"
expected="httpx: pages 1 1 1; requests: pages 1 2 3; aiohttp: pages 1 2 3; httpx, empty params: page 1"
if [ "$seen" = "$expected" ]; then echo "as stated"; else echo "changed"; exit 1; fi
