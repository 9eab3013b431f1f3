#!/usr/bin/env bash
# openai 3.57.0 (PyPI), Python 3.11's concurrent.futures; anthropic 2.14.0 beside it. 2026-11-28.
# openai's errors with a status (RateLimitError, BadRequestError, ...) and APIConnectionError can be pickled and not be
# unpickled. In a ProcessPoolExecutor one call that is answered by 429 therefore ends the pool: its own future and all
# others, also those of calls under way that would have succeeded, fail with BrokenProcessPool, whose text says that a
# process was terminated abruptly; none was, and the rate limit is not named. anthropic's errors arrive as they are.
# Most would expect: `future.exception()` is the RateLimitError, and the pool goes on.
# Seen: openai: BrokenProcessPool x3, next submit BrokenProcessPool;
#   anthropic: RateLimitError x1, 1 x2, next submit 1
# Why an agent runtime meets it: batches of calls, and tools that compute in processes, share one pool. The commonest
# error of a provider stops the work of all. A journal that pickles errors (DBOS 3.4.0)
# gives recovering code another error than the one that it caught before.
# Needs no provider: a server on 127.0.0.1 answers.
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT
cd "$dir"
cat > t.py <<'P'
import collections
import http.server
import json
import multiprocessing
import pathlib
import threading
import time
from concurrent.futures import ProcessPoolExecutor

BUSY = {"error": {"type": "rate_limit_error", "message": "Slow down."}}


class Provider(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        body = json.dumps(BUSY).encode()
        self.send_response(429)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        pathlib.Path("refused").touch()

    def log_message(self, *words):
        pass


def call(package, address, number):
    if number != 0:
        while number == 1 and not pathlib.Path("refused").exists():
            time.sleep(0.1)
        time.sleep(4)  # under way as the other call is refused
        return 1
    message = {"role": "user", "content": "Hello."}
    if package == "openai":
        import openai

        client = openai.OpenAI(base_url=address, api_key="none", max_retries=0)
        return client.chat.completions.create(model="m", messages=[message])
    import anthropic

    client = anthropic.Anthropic(base_url=address, api_key="none", max_retries=0)
    return client.messages.create(model="m", max_tokens=9, messages=[message])


def outcome(future):
    error = future.exception()
    return type(error).__name__ if error else str(future.result())


if __name__ == "__main__":
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Provider)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    for package in ("openai", "anthropic"):
        pool = ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn"))
        futures = [pool.submit(call, package, address, number) for number in range(3)]
        counts = sorted(collections.Counter(map(outcome, futures)).items(), reverse=True)
        try:
            after = outcome(pool.submit(call, package, address, 2))
        except Exception as error:
            after = type(error).__name__
        pool.shutdown()
        pathlib.Path("refused").unlink()
        print(f"{package}: {', '.join(f'{name} x{count}' for name, count in counts)}, next submit {after}")
P
python3 -m venv v
v/bin/pip install -q --disable-pip-version-check openai==3.57.0 anthropic==2.14.0
seen=$(timeout 110 v/bin/python t.py 2>/dev/null)
echo "seen:"; echo "$seen"
expected="openai: BrokenProcessPool x3, next submit BrokenProcessPool
anthropic: RateLimitError x1, 1 x2, next submit 1"
if [ "$seen" = "$expected" ]; then echo "as stated"; else echo "changed"; exit 1; fi
