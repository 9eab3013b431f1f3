#!/usr/bin/env bash
# tenacity 9.2.1, backoff 2.2.1 and stamina 26.1.0 (PyPI), Python 3.11. 2026-11-28.
# An async generator that streams a reply fails once after its first piece, and works the second time. Decorated by
# tenacity or backoff it is never retried: the call that they watch only makes the generator, and that always works.
# Nothing warns, neither when it is decorated nor when it fails. stamina retries it, and hands out the first piece
# again. Plain functions with the same decorators are retried by all three.
# Most would expect: a decorator that is documented to work on coroutines retries a stream or refuses it, and a
# consumer gets each piece once or is told to begin again. stamina's documentation names generators, tenacity's and
# backoff's do not.
# Seen: tenacity: plain 2 calls, stream ['Pay 5', 'OSError'] after 1 call; backoff: the same;
#   stamina: plain 2 calls, stream ['Pay 5', 'Pay 5', ' to Ada'] after 2 calls
# Why an agent runtime meets it: code that calls a model is made to stream later, and its decorator stays. From then on
# one 503 ends the run, or a reply is "Pay 5Pay 5 to Ada".
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv v
v/bin/pip install -q --disable-pip-version-check tenacity==9.2.1 backoff==2.2.1 stamina==26.1.0
cat > t.py <<'P'
import asyncio
import logging

import backoff
import stamina
import tenacity

logging.disable()
DECORATORS = {
    "tenacity": tenacity.retry(stop=tenacity.stop_after_attempt(3), reraise=True),
    "backoff": backoff.on_exception(backoff.constant, OSError, max_tries=3, interval=0),
    "stamina": stamina.retry(on=OSError, attempts=3, wait_initial=0.01),
}


async def main():
    for name, decorate in DECORATORS.items():
        calls = 0

        @decorate
        async def plain():
            nonlocal calls
            calls += 1
            if calls == 1:
                raise OSError
            return "Pay 5 to Ada"

        await plain()
        plain_calls, calls = calls, 0

        @decorate
        async def stream():
            nonlocal calls
            calls += 1
            yield "Pay 5"
            if calls == 1:
                raise OSError
            yield " to Ada"

        pieces = []
        try:
            async for piece in stream():
                pieces.append(piece)
        except OSError as error:
            pieces.append(type(error).__name__)
        print(f"{name}: plain {plain_calls} calls, stream {pieces} after {calls} call{'s' if calls > 1 else ''}")


asyncio.run(main())
P
seen=$(timeout 60 v/bin/python t.py)
echo "seen:"; echo "$seen"
expected="tenacity: plain 2 calls, stream ['Pay 5', 'OSError'] after 1 call
backoff: plain 2 calls, stream ['Pay 5', 'OSError'] after 1 call
stamina: plain 2 calls, stream ['Pay 5', 'Pay 5', ' to Ada'] after 2 calls"
if [ "$seen" = "$expected" ]; then echo "as stated"; else echo "changed"; exit 1; fi
