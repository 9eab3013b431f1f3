"""Hostile input by chance: documents and bytes that are nearly right, from a seed."""

import asyncio
import copy
import gc
import json
import os
import random
import time
import warnings
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

SECONDS = float(os.environ.get("FUZZ_SECONDS", "15"))
"""Of all fuzzing together."""
INPUTS = int(os.environ.get("FUZZ_INPUTS", "0"))
"""How many of all fuzzing together, in place of the seconds; 0 is none."""
TIMEOUT = 600 + 3 * SECONDS + INPUTS / 5
"""Seconds for one of its tests, on a machine that does much else."""
ANSWER_SECONDS = 60.0
"""For one answer."""
CPU_SECONDS = 5.0
"""For reading one document."""
CANARY = "canary-of-another-tenant"
"""In what no answer and no line of a log may show."""
_MAX_GROWTH_BYTES = 128 * 1024 * 1024
_SLACK = 60  # files and asyncio tasks that come and go
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2**31, 2**63, -(2**63) - 1, 10**40, 0.1, -0.0, 1e308, 5e-324),
    *(
        "",
        " ",
        "\x00",
        "\u202e",
        "\ufeff",
        "\U0001f4a5" * 20,
        "a" * 300,
        "0",
        "-1",
        "NaN",
        "1e300000000",
        "%00",
    ),
    *(
        "{{x}}",
        "{{",
        "${HOME}",
        "os.environ/HOME",
        "*",
        "#",
        "+/#",
        "bus/x",
        "../../etc/passwd",
        "http://[::1",
    ),
    *("9999-12-31T23:59:59Z", "0001-01-01T00:00:00+23:59", "file:///etc/passwd", "data:;base64,/w=="),
    *([], [[]], {}, {"": None}, [None] * 50, {"type": "object", "$ref": "#"}, {"text": 1}, {"a": {"b": {}}}),
)
PIECES = (
    *(b"\x00", b"\xff\xfe", b"\xed\xa0\x80", b"\r\n", b"\n", b"---\n", b": ", b"- ", b"&a ", b"*a", b"<<: "),
    *(
        b"{{",
        b"}}",
        b"\x27",
        b'"',
        b"\x27\x27\x27",
        b"[[",
        b"]]",
        b"=",
        b"#",
        b"1e999",
        b"inf",
        b"nan",
        b"0x",
    ),
    *(b"1979-05-27", b"2001-99-99", b"\\u0000", b"\\ud800", b"\t", b"{" * 40, b"[" * 2000),
    *(b"!!python/object:os.system ", b"!!timestamp x"),
)


def turns(what: str, share: float, least: int = 20) -> Iterator[int]:
    """Count inputs for a share of the time, or up to a share of their number, and at least so often."""
    ends, number = time.monotonic() + SECONDS * share, 0
    while number < least or (number < INPUTS * share if INPUTS else time.monotonic() < ends):
        yield number
        number += 1
        if INPUTS and number % 5_000 == 0:
            print(f"{what}: {number:,} so far", flush=True)
    print(f"{what}: {number:,} inputs")


@asynccontextmanager
async def nothing_left() -> AsyncIterator[None]:
    """Whatever a block sends, it leaves no open files, asyncio tasks or memory behind."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # of connections that tests before this one ended
        gc.collect()
    files, tasks, memory = _held()
    yield
    async with asyncio.timeout(ANSWER_SECONDS):
        while (held := _held())[0] > files + _SLACK or held[1] > tasks + _SLACK:
            await asyncio.sleep(0.1)
    gc.collect()
    grown = _held()[2] - memory
    assert grown < _MAX_GROWTH_BYTES, f"{grown:,} bytes more"


def _held() -> tuple[int, int, int]:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return len(os.listdir("/proc/self/fd")), len(asyncio.all_tasks()), pages * os.sysconf("SC_PAGE_SIZE")


def mutated(chance: random.Random, document: Any) -> Any:
    """A document with some of its values, keys or items changed, lost or doubled."""
    document = copy.deepcopy(document)
    for _ in range(chance.randint(1, 3)):
        places = list(_places(document))
        if not places:
            return chance.choice(VALUES)
        holder, key = chance.choice(places)
        match chance.randrange(5):
            case 0:
                del holder[key]
            case 1 if isinstance(holder, dict):
                holder[str(chance.choice(VALUES))[:80]] = holder[key]
            case 2 if isinstance(holder, list):
                holder.extend([holder[key]] * chance.randint(1, 60))
            case 3:
                holder[key] = [holder[key]]
            case _:
                holder[key] = copy.deepcopy(chance.choice(VALUES))
    return document


def _places(document: Any) -> Iterator[tuple[Any, Any]]:
    items = document.items() if isinstance(document, dict) else enumerate(document)
    for key, value in items:
        yield document, key
        if isinstance(value, dict | list):
            yield from _places(value)


def torn(chance: random.Random, data: bytes) -> bytes:
    """Bytes with pieces cut out, put in, moved or turned over."""
    for _ in range(chance.randint(1, 4)):
        start = chance.randint(0, len(data))
        end = min(len(data), start + chance.choice((0, 1, 2, 5, 40)))
        match chance.randrange(4):
            case 0:
                data = data[:start] + data[end:]
            case 1:
                data = data[:start] + chance.choice(PIECES) + data[end:]
            case 2:
                data = data[:start] + bytes(chance.randrange(256) for _ in range(end - start)) + data[end:]
            case _:
                at = chance.randint(0, len(data))
                data = data[:at] + data[start:end] + data[at:]
    return data


def body(chance: random.Random, document: Any) -> bytes:
    """The bytes of a document that is nearly right."""
    if chance.random() < 0.8:
        document = mutated(chance, document)
    data = json.dumps(document).encode()
    return torn(chance, data) if chance.random() < 0.25 else data
