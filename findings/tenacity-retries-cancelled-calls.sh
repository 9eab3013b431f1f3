#!/usr/bin/env bash
# tenacity 9.2.1 (PyPI), Python 3.11. 2026-11-28.
# `retry_if_not_exception_type(ValueError)`, the documented way to retry everything but one kind of error, counts
# asyncio.CancelledError among what it retries. A task that is cancelled makes its call a second time and ends as if
# nobody had cancelled it; `asyncio.timeout` and `wait_for` around it have no effect either. `retry_if_exception_type()`
# leaves the cancellation alone.
# Most would expect: a retry is about errors. CancelledError is no Exception since Python 3.8, so that code like this
# passes it on.
# Seen: if_not: cancelled: returned paid, 2 calls; timeout of 0.2 s: returned paid, 2 calls;
#   if: cancelled: CancelledError, 1 call; timeout of 0.2 s: TimeoutError, 1 call
# Why an agent runtime meets it: people cancel tasks and deadlines end them, by cancelling what runs. The tool that was
# to stop repeats its effect in answer to the very order to stop.
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv v
v/bin/pip install -q --disable-pip-version-check tenacity==9.2.1
cat > t.py <<'P'
import asyncio

from tenacity import AsyncRetrying, retry_if_exception_type, retry_if_not_exception_type, stop_after_attempt


async def outcome(rule, order):
    calls, begun = 0, asyncio.Event()

    async def pay():
        nonlocal calls
        calls += 1
        begun.set()
        await asyncio.sleep(1)  # the bank answers late
        return "paid"

    async def work():
        return await AsyncRetrying(retry=rule, stop=stop_after_attempt(3), reraise=True)(pay)

    async def limited():
        async with asyncio.timeout(0.2):
            return await work()

    task = asyncio.create_task(work() if order == "cancelled" else limited())
    await begun.wait()
    if order == "cancelled":
        task.cancel()
    try:
        result = f"returned {await task}"
    except (asyncio.CancelledError, TimeoutError) as error:
        result = type(error).__name__
    return f"{order}: {result}, {calls} call{'s' if calls > 1 else ''}"


async def main():
    for name, rule in (("if_not", retry_if_not_exception_type(ValueError)), ("if", retry_if_exception_type())):
        outcomes = [await outcome(rule, order) for order in ("cancelled", "timeout of 0.2 s")]
        print(f"{name}: {'; '.join(outcomes)}")


asyncio.run(main())
P
seen=$(timeout 60 v/bin/python t.py)
echo "seen:"; echo "$seen"
expected="if_not: cancelled: returned paid, 2 calls; timeout of 0.2 s: returned paid, 2 calls
if: cancelled: CancelledError, 1 call; timeout of 0.2 s: TimeoutError, 1 call"
if [ "$seen" = "$expected" ]; then echo "as stated"; else echo "changed"; exit 1; fi
