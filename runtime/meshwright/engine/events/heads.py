"""Signed heads of the event log.

A head says how far the log had come at a time, with the hash of its last row. It vouches for every row up to
its own. Heads are appended to `audit.heads` in the data folder, which shows that a log was cut or emptied,
and published as events, which others may keep.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import logging
import os
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from meshwright.core.clock import Clock
from meshwright.core.encoding import Struct
from meshwright.core.errors import HostError, MeshError
from meshwright.engine.events.log import EventLog
from meshwright.engine.sql.database import Database, Session
from meshwright.engine.sql.folder import KeyFile, open_private, read_private

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

FILE_NAME, KEY_NAME = "audit.heads", "audit.key"
SIGNED = "audit.head"
"""The event of a head; its payload is the head."""
_LOOK_SECONDS = 1.0  # between looks whether there is enough to sign
_MAX_LINE_BYTES = 4096
_logger = logging.getLogger(__name__)
_UNSIGNED = "The newest events are not signed, the next head signs them too: %s"


class Head(Struct):
    """A signed head: `hash` is that of row `seq`, in hexadecimal.

    `key` is the public key (Ed25519) and `signature` what it signed, in base64.
    """

    seq: int
    hash: str
    time: datetime
    key: str = ""
    signature: str = ""

    @property
    def signed(self) -> bytes:
        """The bytes that are signed."""
        return f"meshwright head 1\n{self.seq}\n{self.hash}\n{self.time.isoformat()}".encode()

    def is_signed_by(self, key: str) -> bool:
        """Whether a key, in base64, has signed this head."""
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

        try:
            public = Ed25519PublicKey.from_public_bytes(base64.b64decode(key))
            public.verify(base64.b64decode(self.signature), self.signed)
        except (InvalidSignature, ValueError):
            return False
        return True


class Signer:
    """Signs with the mesh's key, which is made at first use."""

    def __init__(self, folder: Path) -> None:
        self._file = KeyFile(folder / KEY_NAME, _new_key)

    def sign(self, head: Head) -> Head:
        """The head with key and signature. Raises ConfigError where the key cannot be used."""
        private = self._private()
        signature = private.sign(head.signed)
        return head.model_copy(
            update={"key": _public(private), "signature": base64.b64encode(signature).decode()}
        )

    def sign_bytes(self, data: bytes) -> bytes:
        """The signature of bytes that cannot be those of a head. Raises ConfigError."""
        return self._private().sign(data)

    def public_bytes(self) -> bytes:
        """The 32 bytes of the public key, which is made if there is none yet. Raises ConfigError."""
        return self._private().public_key().public_bytes_raw()

    def public_key(self) -> str:
        """The public key, in base64, that checks heads; empty where none was made yet.

        Raises ConfigError.
        """
        return _public(self._private()) if self._file.path.exists() else ""

    def _private(self) -> Ed25519PrivateKey:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        try:
            return Ed25519PrivateKey.from_private_bytes(base64.b64decode(self._file.keys()[0]))
        except ValueError:
            raise self._file.unusable("holds no key of Ed25519") from None


class HeadKeeper:
    """Signs heads: after so many rows, after so many seconds with a new one, and at the end."""

    def __init__(
        self,
        database: Database,
        log: EventLog,
        clock: Clock,
        publish: Callable[[Head], Awaitable[None]],
        *,
        rows: int,
        seconds: float,
    ) -> None:
        self._database, self._log, self._clock, self._publish = database, log, clock, publish
        self._rows, self._seconds = rows, seconds
        self._path = database.folder / FILE_NAME
        self._signer = Signer(database.folder)
        self._signed_seq = 0
        self._signed_at = time.monotonic()
        self._signing: asyncio.Task[None] | None = None
        self._stopping = asyncio.Event()

    async def start(self) -> None:
        """Begin to sign."""
        self._stopping.clear()
        self._signing = asyncio.create_task(self._sign_on(), name="audit: heads")

    async def stop(self) -> None:
        """Sign how far the log has come. Idempotent."""
        signing, self._signing = self._signing, None
        if signing is None:
            return
        self._stopping.set()
        await signing  # not cancelled, for a head may be half signed
        with suppress(HostError):  # the log has failed, which was reported already
            if (await self._database.read(_state))[0] > self._signed_seq:
                try:
                    await self._sign()
                except OSError as error:
                    _logger.warning(_UNSIGNED, self._reason(error))

    async def _sign_on(self) -> None:
        is_unsigned = False
        while not self._stopping.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), min(_LOOK_SECONDS, self._seconds))
            rows = await self._log.last_seq() - self._signed_seq
            is_late = time.monotonic() - self._signed_at >= self._seconds
            if rows < self._rows and not (is_late and rows > 1):  # one row is the event of the last head
                continue
            try:
                await self._publish(await self._sign())
                is_unsigned = False
            except (MeshError, OSError) as error:
                if not is_unsigned:  # said once: an outage may last
                    _logger.warning(_UNSIGNED, self._reason(error))
                is_unsigned = True

    def _reason(self, error: Exception) -> str:
        return f"{self._path}: {error.strerror}" if isinstance(error, OSError) else str(error)

    async def _sign(self) -> Head:
        seq, last_hash = await self._database.read(_state)
        head = Head(seq=seq, hash=last_hash.hex(), time=self._clock.now())
        head = await asyncio.to_thread(self._signer.sign, head)
        await asyncio.to_thread(_append, self._path, head.model_dump_json())  # before the log names it
        self._signed_seq, self._signed_at = seq, time.monotonic()
        return head


def stored_heads(folder: Path) -> Sequence[Head | None]:
    """The heads of a data folder, in the order of signing; None for a line that is none.

    A last line that a crash cut off is passed over.
    """
    try:
        text = read_private(folder / FILE_NAME)
    except FileNotFoundError:
        return ()
    return list(_parse_heads(text[: text.rfind("\n") + 1].splitlines()))


def _parse_heads(lines: Sequence[str]) -> Iterator[Head | None]:
    for line in lines:
        try:
            yield Head.model_validate_json(line)
        except ValueError:
            yield None


def _append(path: Path, line: str) -> None:
    descriptor = open_private(path, os.O_RDWR | os.O_CREAT)
    with os.fdopen(descriptor, "r+b") as file:
        size = file.seek(0, os.SEEK_END)
        start = file.seek(max(0, size - _MAX_LINE_BYTES))
        file.seek(start + file.read().rfind(b"\n") + 1)  # behind what a crash cut off
        file.truncate()
        file.write(f"{line}\n".encode())
        file.flush()
        os.fsync(file.fileno())  # durable before the log has it


def _state(session: Session) -> tuple[int, bytes]:
    return session.execute("SELECT seq, hash FROM event_log").fetchall()[0]


def _new_key() -> str:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    return base64.b64encode(Ed25519PrivateKey.generate().private_bytes_raw()).decode()


def _public(private: Ed25519PrivateKey) -> str:
    return base64.b64encode(private.public_key().public_bytes_raw()).decode()


def fingerprint(key: str) -> str:
    """A public key in short."""
    return hashlib.sha256(key.encode()).hexdigest()[:16]
