#!/usr/bin/env bash
# filelock 4.2.11 (PyPI). 2026-11-29.
# Three asyncio tasks of one process share `lock = AsyncFileLock(path)` and work within `async with lock:`. All three are
# inside at once: the object counts how often it is held, and takes each further `acquire` for a nested one. Each with
# an `AsyncFileLock(path)` of its own, they are inside one at a time. `FileLock` in two tasks does the same as the first.
# Most would expect: a lock of asyncio keeps tasks apart, as asyncio.Lock does; that the object is reentrant is said
# of nested blocks, and one of its own for each use looks like a waste.
# Seen: one AsyncFileLock: 3 inside; one each: 1 inside; one FileLock: 3 inside
# Why an agent runtime meets it: tools of one reply run side by side in one process, and guard a file by a lock that the
# module or the agent holds. Two processes are kept apart, so tests with two workers pass, and two calls of one are not.
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT
cd "$dir"
cat > t.py <<'P'
import asyncio

from filelock import AsyncFileLock, FileLock


async def count_inside(locks, is_async):
    inside = most = 0

    async def work(lock):
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        await asyncio.sleep(0.2)
        inside -= 1

    async def hold(lock):
        if is_async:
            async with lock:
                await work(lock)
        else:
            with lock:
                await work(lock)

    await asyncio.gather(*map(hold, locks))
    return most


async def main():
    one = await count_inside([AsyncFileLock("a.lock")] * 3, True)
    each = await count_inside([AsyncFileLock("b.lock") for _ in range(3)], True)
    sync = await count_inside([FileLock("c.lock")] * 3, False)
    print(f"one AsyncFileLock: {one} inside; one each: {each} inside; one FileLock: {sync} inside")


asyncio.run(main())
P
python3 -m venv v
v/bin/pip install -q --disable-pip-version-check filelock==4.2.11
seen=$(timeout 60 v/bin/python t.py)
echo "seen: $seen"
expected="one AsyncFileLock: 3 inside; one each: 1 inside; one FileLock: 3 inside"
if [ "$seen" = "$expected" ]; then echo "as stated"; else echo "changed"; exit 1; fi
