"""Redis appends each write to a log on its disk: what was overwritten or deleted stays there for a while."""

from __future__ import annotations

import asyncio
from asyncio import StreamReader, StreamWriter

from meshwright.core.errors import ServiceFailed
from meshwright.stack.machine import ask_redis

_PAUSE_SECONDS = 0.1


async def rewrite_redis_log(address: str, password: str) -> None:
    """Have a Redis rewrite its append-only log, without what was overwritten or deleted.

    Returns when that is done, seconds for a gigabyte; at once where Redis keeps no such log. Raises
    ServiceFailed.
    """
    host, _, port = address.rpartition(":")
    try:
        reader, writer = await asyncio.open_connection(host, int(port))
        try:
            await ask_redis(reader, writer, password, "PING")
            failed = await _rewrite(reader, writer)
        finally:
            writer.close()
    except (OSError, EOFError, ValueError) as error:  # RedisRefused is a ValueError
        failed = str(error) or type(error).__name__
    if failed:
        raise ServiceFailed(
            f"The append-only log of Redis at {address} may still hold what was erased: {failed}",
            remedy="Repeat the command, or have Redis rewrite its log: redis-cli BGREWRITEAOF",
        )


async def _rewrite(reader: StreamReader, writer: StreamWriter) -> str:
    """Why it did not work; empty where it did."""
    begun = False
    while True:
        [text] = await ask_redis(reader, writer, "", "INFO", "persistence")
        state = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
        if state.get("aof_enabled") != "1":
            return ""
        if "1" in (state.get("aof_rewrite_in_progress"), state.get("aof_rewrite_scheduled")):
            await asyncio.sleep(_PAUSE_SECONDS)
        elif begun:
            status = state.get("aof_last_bgrewrite_status", "")
            return "" if status == "ok" else f"the rewrite ended with {status!r}"
        else:
            await ask_redis(reader, writer, "", "BGREWRITEAOF")
            begun = True
