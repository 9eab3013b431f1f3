"""The ids of tasks, events and calls: how they are made, and which texts may be ids."""

from __future__ import annotations

import hashlib
import os
import random
import time
from functools import lru_cache
from typing import Annotated

from msgspec import Meta
from pydantic import StringConstraints

ID_PATTERN = r"^[A-Za-z0-9_-]{1,64}$"
VARIABLE_PATTERN = r"^[a-z][a-z0-9_]{0,63}$"
"""The names of variables and inputs of a prompt."""
SHORT_DIGEST = 12
"""The characters of a digest or a git revision that people and versions name it by."""
RUN_VARIABLES = ("agent_name", "task")
"""The values for the prompt of a run: the agent's id, and the request's text."""
Identifier = Annotated[str, StringConstraints(pattern=ID_PATTERN), Meta(pattern=ID_PATTERN)]
"""An id that may become a part of a topic, a key or a path: 1 to 64 letters, digits, `_` and `-`."""

_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_PAIRS = tuple(high + low for high in _CROCKFORD for low in _CROCKFORD)
_DIGITS = bytes(ord(_CROCKFORD[byte & 31]) for byte in range(256))  # of a random byte: five of its bits


def _encode_id(number: int, bits: int = 130) -> str:
    """Write bits in Crockford's base 32, as ULIDs do: 130 are 26 characters that sort like the numbers."""
    return "".join([_PAIRS[number >> shift & 1023] for shift in range(bits - 10, -1, -10)])


@lru_cache(maxsize=16)
def _encode_time(span: int) -> str:
    """The first eight characters of the ids of a span of 1,024 milliseconds."""
    return _encode_id(span, 40)


_RANDOM = random.Random()  # our own: a program's seed, or its tests' fuzzer, is nothing to ids
os.register_at_fork(after_in_child=_RANDOM.seed)
_random_bits = _RANDOM.getrandbits


def new_id() -> str:
    """Make a ULID: 48 bits of milliseconds, then 80 random bits, so that later ids sort later.

    Unique, but no secret: the generator is seeded by the system once, since asking it for each id lets go
    of the interpreter lock, which is slow to get back beside a busy thread.
    """
    random_digits = _random_bits(128).to_bytes(16).translate(_DIGITS).decode()
    milliseconds = time.time_ns() // 1_000_000
    return _encode_time(milliseconds >> 10) + _PAIRS[milliseconds & 1023] + random_digits


def derived_id(*parts: str) -> str:
    """Make the id that the same parts always give, for idempotency: 130 bits of their SHA-256."""
    digest = hashlib.sha256("\x00".join(parts).encode()).digest()
    return _encode_id(int.from_bytes(digest[:17]) >> 6)


def version_prefix(version: str) -> str:
    """Returns how the versions of a prompt begin that a text names.

    It is `NAME` for all of a prompt, or `NAME@DIGEST` with a whole digest or its beginning; a place after
    that is ignored.
    """
    name, _, digest = version.partition(" ")[0].partition("@")
    return f"{name}@{digest[:SHORT_DIGEST].lower()}"
