"""Runs one side: `python -m benchmarks.side module:function '{"arguments": ...}'`.

The function is a coroutine with one result, or an async generator with several: each is a line of JSON on
stdout, and waits for a line on stdin. It runs on the event loop that `mesh up` uses.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any

import uvloop


async def run(function: Callable[..., Any], arguments: dict[str, Any]) -> None:
    reader = await _stdin()
    result = function(**arguments)
    if not inspect.isasyncgen(result):
        await reader.readline()
        say(await result)
        return
    while await reader.readline():
        try:
            say(await anext(result))
        except StopAsyncIteration:
            return
    await result.aclose()


async def _stdin() -> asyncio.StreamReader:
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    return reader


def say(result: Any) -> None:
    sys.stdout.write(json.dumps(result) + "\n")
    sys.stdout.flush()


def main(target: str, arguments: str) -> None:
    module, _, name = target.partition(":")
    function = getattr(import_module(module), name)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run(function, json.loads(arguments)))


if __name__ == "__main__":
    main(*sys.argv[1:])
