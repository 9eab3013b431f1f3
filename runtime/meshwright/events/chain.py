"""The hash chain of the event log: what makes a change of a row show.

    commitment = SHA-256(salt, payload)
    hash       = SHA-256(hash of the row before, commitment, number and facts of the row)

A row has its salt and the first bytes of its hash, by which the first wrong row is found. The log has the
whole hash of its last row, each block that of its own last row; signed heads (`events.heads`) have it too.
If a payload is erased, the row has the commitment in the place of the salt: the chain holds, and the
payload cannot be guessed from the commitment, since the random salt is gone.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from hashlib import sha256 as _sha256

import msgspec

from meshwright.sql.database import Row, Session

ERASED = b'{"erased":true}'
"""The payload of a row whose contents were erased."""
ERASED_EVENT = "contents.erased"
"""The event of an erasure; its payload has the rows, as `ranges` of their numbers."""
PRUNED_EVENT = "events.pruned"
"""The event of rows that were deleted by age, `through` a number."""
SALT_BYTES, HASH_BYTES = 16, 32  # salted: no hash lets one guess an erased payload
_TAG_BYTES = 8  # of a row's hash; blocks and heads have whole ones
_LINK_BYTES, _ERASED_LINK_BYTES = SALT_BYTES + _TAG_BYTES, HASH_BYTES + _TAG_BYTES
_VERSION, _MAX = 2, 2**63  # of `event_version`: a larger one is stored as the largest
_UNPACKABLE = (UnicodeEncodeError, OverflowError, TypeError)

_number = struct.Struct("<q").pack
_pack = msgspec.msgpack.Encoder().encode


def link(session: Session, rows: Sequence[Row], first: int, head: bytes) -> tuple[list[Row], list[bytes]]:
    """Rows as the database will have them, and the hash of each; `head` is the hash of the row before.

    It is in the way of every commit: a row costs two hashes and two microseconds.
    """
    salts = os.urandom(SALT_BYTES * len(rows))  # one system call for all
    linked: list[Row] = []
    hashes: list[bytes] = []
    for n, row in enumerate(rows):
        salt = salts[n * SALT_BYTES : (n + 1) * SALT_BYTES]
        seq, facts = first + n, row[:-1]
        try:
            packed = _pack(facts) if -_MAX < facts[_VERSION] < _MAX else None
        except _UNPACKABLE:
            packed = None
        if packed is None:
            row = (*map(session.bindable, facts), row[-1])  # hashed as the database will have it
            packed = _pack(row[:-1])
        head = _sha256(head + _sha256(salt + row[-1]).digest() + _number(seq) + packed).digest()
        linked.append((seq, *row, salt + head[:_TAG_BYTES]))
        hashes.append(head)
    return linked, hashes


def sealed_rows(session: Session, rows: Sequence[Row]) -> list[Row]:
    """Rows as the database will have them, each with its salt, its commitment and its packed facts.

    By these a server numbers and links them itself.
    """
    sealed: list[Row] = []
    for *facts, payload in rows:
        salt, stored = os.urandom(SALT_BYTES), [*map(session.bindable, facts)]
        sealed.append((*stored, payload, salt, _sha256(salt + payload).digest(), _pack(stored)))
    return sealed


def next_hash(row: Row, head: bytes, seq: int | None = None) -> bytes | None:
    """The hash that a stored row should have behind another's, where its own number is `seq`.

    `row` has the columns of the table with its link. None for a row that cannot be hashed.
    """
    stored, *facts, payload, own = row
    try:
        number = stored if seq is None else seq
        return _sha256(head + _commitment(payload, own) + _number(number) + _pack(facts)).digest()
    except (ValueError, OverflowError, TypeError, struct.error):
        return None


def fits(row: Row, expected: bytes | None) -> bool:
    """Whether a row's link is that of the hash that was found for it."""
    return expected is not None and bytes(row[-1])[-_TAG_BYTES:] == expected[:_TAG_BYTES]


def is_erased(row: Row) -> bool:
    """Whether a row's payload was erased."""
    return isinstance(row[-1], bytes) and len(row[-1]) == _ERASED_LINK_BYTES


def erased_link(payload: bytes, own: bytes) -> bytes:
    """The link of a row whose payload is taken away."""
    return _commitment(payload, own) + own[-_TAG_BYTES:]


def _commitment(payload: bytes, own: bytes) -> bytes:
    if len(own) == _ERASED_LINK_BYTES:
        return own[:HASH_BYTES]  # the salt and the payload are gone
    if len(own) != _LINK_BYTES:
        raise ValueError("no link")
    return _sha256(own[:SALT_BYTES] + payload).digest()
