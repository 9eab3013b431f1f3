#!/usr/bin/env bash
# anthropic 2.14.0 (PyPI); openai 3.57.0, made by the same generator, beside it. 2026-11-28.
# A provider answers 429 with `Retry-After: 7200`. anthropic's client sleeps for these two hours within
# `messages.create(...)`, also with `timeout=5`, and raises nothing meanwhile; openai's raises RateLimitError at once.
# Most would expect: `timeout` bounds the call, or a wait beyond a minute is the caller's to decide; what openai does.
# The documentation of openai has retries "with a short exponential backoff".
# Seen: openai RateLimitError after 1 request; anthropic still waiting, which its log states as 7200 seconds
# Why an agent runtime meets it: a daily limit is answered so. The task holds its slot, its lease and its reservation of
# money for hours without a sign; with two retries for four. No fallback to another model is asked.
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv v
v/bin/pip install -q --disable-pip-version-check anthropic==2.14.0 openai==3.57.0
cat > t.py <<'P'
import asyncio
import http.server
import logging
import threading

import anthropic
import openai


class Provider(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        body = b'{"error": {"type": "rate_limit_error", "message": "Daily limit"}}'
        self.send_response(429)
        self.send_header("retry-after", "7200")
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


class Waits(logging.Handler):
    """Ends the call when a client says how long it sleeps."""

    def emit(self, record):
        if record.msg.startswith("Retrying request"):
            waits.put_nowait(record.getMessage().rpartition(" in ")[2])


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Provider)
threading.Thread(target=server.serve_forever, daemon=True).start()
url = f"http://127.0.0.1:{server.server_port}"
waits = asyncio.Queue()
request = {"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": "Hello"}], "timeout": 5}


async def main():
    for library, client in (
        (openai, openai.AsyncOpenAI(api_key="none", base_url=url)),
        (anthropic, anthropic.AsyncAnthropic(api_key="none", base_url=url)),
    ):
        create = client.messages.create if library is anthropic else client.chat.completions.create
        logger = logging.getLogger(library.__name__)
        logger.setLevel(logging.INFO)
        logger.addHandler(Waits())
        call, wait = asyncio.create_task(create(**request)), asyncio.create_task(waits.get())
        await asyncio.wait((call, wait), timeout=30, return_when=asyncio.FIRST_COMPLETED)
        if wait.done():
            await asyncio.wait((call,), timeout=8)  # beyond its timeout of 5 s
        if call.done():
            print(f"{library.__name__} {type(call.exception()).__name__}")
        else:
            print(f"{library.__name__} still waiting, {wait.result()}")
        for task in (call, wait):
            task.cancel()
        await asyncio.wait((call, wait))


asyncio.run(main())
P
seen=$(timeout 300 v/bin/python t.py)
echo "seen:"; echo "$seen"
expected="openai RateLimitError
anthropic still waiting, 7200.000000 seconds"
if [ "$seen" = "$expected" ]; then echo "as stated"; else echo "changed"; exit 1; fi
