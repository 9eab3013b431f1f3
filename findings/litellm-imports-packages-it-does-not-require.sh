#!/usr/bin/env bash
# LiteLLM 1.92.2 and 1.106.12 (PyPI), installed alone by pip, as a library; 1.91.5 and 1.104.9 beside them. 2026-11-28.
# `litellm.acompletion` with `tools` fails in each call: that of 1.92.2 with "No module named 'fastapi'", that of
# 1.106.12 with "No module named 'mcp'", packages that the metadata has for the extra `proxy` alone. Without tools
# both work. The error is an APIConnectionError, as if the provider were out of reach; nothing was sent to it.
# Most would expect: `pip install litellm` installs what the library's main function imports, and a package that is
# missing is no error of the connection.
# Seen: 1.91.5 ok, ok; 1.92.2 ok, APIConnectionError fastapi; 1.104.9 ok, ok; 1.106.12 ok, APIConnectionError mcp
# Why an agent mesh meets it: its agents call models with tools by this library. A connection that fails is tried
# again, and other deployments are asked, so that a release like these looks like an outage of all providers.
# Needs no provider: a server on 127.0.0.1 answers. Downloads about 150 MB.
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT
cd "$dir"
cat > t.py <<'P'
import asyncio
import http.server
import json
import re
import threading

import litellm


class Provider(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        message = {"role": "assistant", "content": "Well."}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
        reply = {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], "usage": usage}
        body = json.dumps(reply).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *words):
        pass


async def main():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Provider)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    messages = [{"role": "user", "content": "How are you?"}]
    address = f"http://127.0.0.1:{server.server_port}/v1"
    look = {"name": "look", "description": "Look.", "parameters": {"type": "object", "properties": {}}}
    seen = []
    for options in ({}, {"tools": [{"type": "function", "function": look}]}):
        try:
            await litellm.acompletion("mistral/m", messages, api_base=address, api_key="none", num_retries=0, **options)
            seen.append("ok")
        except Exception as error:
            missing = re.search(r"No module named '(\w+)", str(error))
            seen.append(f"{type(error).__name__} {missing[1] if missing else str(error)[:200]}")
    print(", ".join(seen))


asyncio.run(main())
P
seen=""
for release in 1.91.5 1.92.2 1.104.9 1.106.12; do
    python3 -m venv "$release"
    "$release/bin/pip" install -q --disable-pip-version-check "litellm==$release"
    seen="$seen; $release $(LITELLM_LOCAL_MODEL_COST_MAP=True timeout 120 "$release/bin/python" t.py 2>/dev/null | tail -1)"
done
seen=${seen#; }
echo "seen: $seen"
expected="1.91.5 ok, ok; 1.92.2 ok, APIConnectionError fastapi; 1.104.9 ok, ok; 1.106.12 ok, APIConnectionError mcp"
if [ "$seen" = "$expected" ]; then echo "as stated"; else echo "changed"; exit 1; fi
