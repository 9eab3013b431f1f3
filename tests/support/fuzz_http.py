"""Hostile requests over real sockets, and what every answer to one has to be."""

from __future__ import annotations

import asyncio
import logging
import random
import re
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from tests.support.fuzz import ANSWER_SECONDS, CANARY, VALUES, torn

BUSY = {503}  # where no agent has a capability
_MAX_ANSWER_BYTES = 16 * 1024 * 1024
_HEADERS = (
    *("Idempotency-Key", "traceparent", "Last-Event-ID", "Mesh-Tenant", "Authorization", "Origin", "Host"),
    *("Accept", "Content-Type", "X-GitHub-Event", "Range", "Forwarded", "Transfer-Encoding"),
)


@pytest.fixture
def chance(seed: int) -> random.Random:
    return random.Random(seed)


@pytest.fixture
def no_errors(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Nothing unexpected is logged, and so nothing unexpected was raised; and no secret."""
    yield
    records = [*caplog.get_records("setup"), *caplog.get_records("call")]
    shown = [logging.Formatter().format(record) for record in records]
    raised = [
        text
        for record, text in zip(records, shown, strict=True)
        if record.levelno >= logging.ERROR or record.exc_info
    ]
    assert not raised, "\n".join(raised[:3])
    assert not [text for text in shown if CANARY in text]


async def answer(url: str, data: bytes, *, is_whole: bool, is_stream: bool = False) -> tuple[int, bytes]:
    """The status of the answer to some bytes, 0 where the connection is closed, and all that came with it."""
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    got = b""
    try:
        writer.write(data)
        if not is_whole or b"Transfer-Encoding" in data:  # the server may wait for the rest
            writer.write_eof()
        while len(got) < _MAX_ANSWER_BYTES and (more := await reader.read(65_536)):
            got += more
            head, ended, rest = got.partition(b"\r\n\r\n")
            length = re.search(rb"(?i)\r\ncontent-length: *([0-9]+)", head)
            if ended and (is_stream or (length and len(rest) >= int(length[1]))):
                break  # a stream goes on for ever, and a connection that is refused lingers
    except ConnectionError:  # it was refused before all was read
        return 0, b""
    finally:
        writer.close()
    return (int(got[9:12]) if got[9:12].isdigit() else 0), got


async def check(url: str, data: bytes, *, is_whole: bool = True, is_stream: bool = False) -> int:
    """The answer is no failure of ours, comes, and has nothing of others."""
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            status, got = await answer(url, data, is_whole=is_whole, is_stream=is_stream)
    except TimeoutError:
        raise AssertionError(f"no answer to {data[:2000]!r}") from None
    assert status < 500 or status in BUSY, (data[:2000], got[:2000])
    assert CANARY.encode() not in got, data[:2000]
    return status


def header_of(chance: random.Random) -> bytes:
    value = str(chance.choice(VALUES)).encode()
    if chance.random() < 0.1:
        value = b"9" * 9_000
    return f"{chance.choice(_HEADERS)}: ".encode() + torn(chance, value)[:9_000] + b"\r\n"


def post(path: str, sent: bytes, headers: dict[str, str], extra: bytes = b"") -> bytes:
    """The bytes of a request with a body."""
    named = {"Host": "127.0.0.1", "Connection": "close", "Content-Length": str(len(sent)), **headers}
    lines = "".join(f"{name}: {value}\r\n" for name, value in named.items()).encode()
    return f"POST {path} HTTP/1.1\r\n".encode() + lines + extra + b"\r\n" + sent
