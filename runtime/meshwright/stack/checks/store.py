"""Whether a Redis keeps what it was given."""

from __future__ import annotations

import asyncio
from asyncio import StreamReader, StreamWriter
from collections.abc import Iterator, Mapping, Sequence

from meshwright.errors import ServiceFailed

CHECK_SECONDS = 5.0
WANTED = ("appendonly", "appendfsync", "maxmemory", "maxmemory-policy")


class Refused(Exception):
    """Redis answered with an error."""


async def check_redis(address: str, password: str) -> Sequence[str]:
    """What of its configuration breaks a promise, a line each. Raises ServiceFailed where it is closed."""
    try:
        async with asyncio.timeout(CHECK_SECONDS):
            found = await _configuration(address, password)
    except Refused as error:
        raise ServiceFailed(
            f"Redis at {address} refuses us: {error}", remedy="set MESH_REDIS_PASSWORD to its password"
        ) from None
    except (OSError, EOFError, ValueError) as error:
        raise ServiceFailed(
            f"Redis at {address} does not answer: {error or type(error).__name__}",
            remedy="start it, or unset MESH_REDIS_HOST: mesh up starts one then",
        ) from None
    return [f"Redis at {address} {line}" for line in _complaints(found)]


def _complaints(found: Mapping[str, str] | None) -> Iterator[str]:
    if found is None:
        yield (
            "does not tell its configuration, so whether it keeps what was accepted cannot be verified: "
            "it needs appendonly yes, appendfsync always, maxmemory-policy noeviction"
        )
        return
    if found.get("appendonly") != "yes":
        yield (
            "keeps no log on disk: what was accepted is lost when it ends; "
            "set appendonly yes and appendfsync always"
        )
    elif found.get("appendfsync") != "always":
        yield (
            f"has appendfsync {found.get('appendfsync')}: a crash of its machine takes back what it had "
            "accepted in the last second, or more; set appendfsync always"
        )
    if found.get("maxmemory", "0") != "0" and found.get("maxmemory-policy") != "noeviction":
        yield (
            f"has maxmemory-policy {found.get('maxmemory-policy')}: out of memory, it throws away tasks; "
            "set maxmemory-policy noeviction"
        )


async def _configuration(address: str, password: str) -> dict[str, str] | None:
    """The settings that matter; None where it does not tell them."""
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        if password:
            await _ask(reader, writer, "AUTH", password)
        await _ask(reader, writer, "PING")
        try:
            answers = [await _ask(reader, writer, "CONFIG", "GET", name) for name in WANTED]
        except Refused:  # renamed, or not for this user: as managed services have it
            return None
    finally:
        writer.close()
    return {pair[0]: pair[1] for pair in answers if len(pair) == 2}


async def _ask(reader: StreamReader, writer: StreamWriter, *words: str) -> list[str]:
    """One command and its reply, as a list of texts. Raises Refused."""
    parts = [f"${len(word.encode())}\r\n{word}\r\n" for word in words]
    writer.write(f"*{len(words)}\r\n{''.join(parts)}".encode())
    head = (await reader.readuntil(b"\r\n")).decode().strip()
    if head.startswith("-"):
        raise Refused(head[1:])
    if not head.startswith("*"):
        return [head[1:]]
    return [await _text(reader) for _ in range(int(head[1:]))]


async def _text(reader: StreamReader) -> str:
    size = int((await reader.readuntil(b"\r\n"))[1:])
    return (await reader.readexactly(size + 2))[:-2].decode()
