"""The tables of replies: the addresses of each task, the position of each sender, and the replies to retry.

Statements that SQLite and PostgreSQL both take. Beside them, in memory, the lines of replies in order.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from datetime import datetime
from typing import Any, NamedTuple

from pydantic_core import from_json

from meshwright.core.encoding import Struct, encode
from meshwright.core.errors import TooLarge
from meshwright.core.messages import Caller
from meshwright.engine.sql.database import Session
from meshwright.engine.work.protocol import TaskKey

_MAX_REPLIES = 8  # of one client that a task's outcome is sent to, the last
MAX_CLIENTS = 32
"""Clients that a task's outcome is sent to."""
_MAX_UNSENT = 1000  # replies of one sender that wait for another try; above that one is dropped
_OF_TASK = "WHERE scheme = ? AND tenant_id = ? AND task_id = ?"
_OF_SENDER = "WHERE scheme = ? AND scope = ?"
_ADDRESSES = f"SELECT place, address FROM reply_addresses {_OF_TASK} ORDER BY place"  # noqa: S608 code
_UNSENT = f"SELECT document FROM unsent_replies {_OF_SENDER}"  # noqa: S608 code


class Address(Struct):
    """The destination of an outcome: a subclass adds the fields of its scheme."""

    client: str = Caller().requested_by
    """The client that asked for the outcome."""


StoredAddress = dict[str, Any]
"""The fields of an address, whatever its scheme."""


class SenderKey(NamedTuple):
    """The name of a sender."""

    scheme: str
    scope: str


class Progress(NamedTuple):
    """The `seq` up to which a sender has finished all outcomes, and the incarnation that sends."""

    seq: int
    owner: str


class UnsentReply(Struct, kw_only=True):
    """An outcome that could not be sent, by the number of its event, and the time of the next try."""

    seq: int
    tenant_id: str
    task_id: str
    address: StoredAddress
    failures: int = 0
    retry_at: datetime

    @property
    def key(self) -> tuple[int, str]:
        """Identifies the reply in all of its tries."""
        return reply_key(self.seq, self.address)


def reply_key(seq: int, address: StoredAddress) -> tuple[int, str]:
    """The key of the reply to an address, by the number of its event."""
    return seq, encode(address).decode()


def add_address(session: Session, scheme: str, task: TaskKey, address: StoredAddress) -> None:
    """Send the outcome of a task there too: no client displaces another. Raises TooLarge for too many."""
    rows = session.execute(_ADDRESSES, (scheme, *task)).fetchall()
    rows = [(place, from_json(text)) for place, text in rows]
    client = address["client"]
    if len({other["client"] for _, other in rows if other["client"] != client}) >= MAX_CLIENTS:
        raise TooLarge(
            f"{MAX_CLIENTS} clients wait for the outcome of task {task.task_id} already",
            remedy="Follow the task's events instead",
            field="reply",
        )
    same = [place for place, other in rows if other == address]
    own = [place for place, other in rows if other["client"] == client and place not in same]
    for place in (*same, *own[: 1 - _MAX_REPLIES]):
        session.execute(f"DELETE FROM reply_addresses {_OF_TASK} AND place = ?", (scheme, *task, place))  # noqa: S608 code
    place = rows[-1][0] + 1 if rows else 1
    row = (scheme, *task, place, encode(address).decode())
    session.insert("reply_addresses (scheme, tenant_id, task_id, place, address)", [row])


def replace_address(session: Session, scheme: str, task: TaskKey, address: StoredAddress) -> None:
    """Send the outcome of a task there, in place of the client's other addresses. Raises TooLarge."""
    remove_addresses(session, scheme, task, address["client"])
    add_address(session, scheme, task, address)


def remove_addresses(session: Session, scheme: str, task: TaskKey, client: str) -> None:
    """Forget the addresses of a client."""
    for place, text in session.execute(_ADDRESSES, (scheme, *task)).fetchall():
        if from_json(text)["client"] == client:
            session.execute(f"DELETE FROM reply_addresses {_OF_TASK} AND place = ?", (scheme, *task, place))  # noqa: S608 code


def erase(session: Session, tenant_id: str, task_ids: Collection[str]) -> None:
    """Forget all addresses of tasks of a tenant."""
    for task_id in task_ids:
        statement = "DELETE FROM reply_addresses WHERE tenant_id = ? AND task_id = ?"
        session.execute(statement, (tenant_id, task_id))


def addresses(session: Session, scheme: str, task: TaskKey) -> list[StoredAddress]:
    """The addresses that get the outcome of a task, in the order in which they were asked for."""
    rows = session.execute(_ADDRESSES, (scheme, *task)).fetchall()
    return [from_json(text) for _, text in rows]


def progress(session: Session, sender: SenderKey) -> Progress | None:
    """The progress of a sender; None before it began."""
    row = session.execute(f"SELECT seq, owner FROM reply_senders {_OF_SENDER}", sender).fetchone()  # noqa: S608 code
    return None if row is None else Progress(*row)


def begin(session: Session, sender: SenderKey, seq: int) -> Progress:
    """Start behind the outcomes from before there was a sender; only the first call counts."""
    session.insert(
        "reply_senders (scheme, scope, seq, owner)", [(*sender, seq, "")], then="ON CONFLICT DO NOTHING"
    )
    progress_now = progress(session, sender)
    assert progress_now is not None
    return progress_now


def reach(session: Session, sender: SenderKey, seq: int) -> None:
    """Store the position of a sender."""
    session.execute(f"UPDATE reply_senders SET seq = ? {_OF_SENDER}", (seq, *sender))  # noqa: S608 code


def own(session: Session, sender: SenderKey, owner: str, former: str) -> bool:
    """Make an incarnation the one that sends, in place of one that is gone; False if another was quicker."""
    values = (owner, *sender, former)
    changed = session.execute(f"UPDATE reply_senders SET owner = ? {_OF_SENDER} AND owner = ?", values)  # noqa: S608 code
    return changed.rowcount == 1


def unsent(session: Session, sender: SenderKey) -> list[UnsentReply]:
    """The replies that wait for another try, in the order of their events."""
    rows = session.execute(f"{_UNSENT} ORDER BY seq", sender).fetchall()
    return [UnsentReply.model_validate_json(document) for (document,) in rows]


def postpone(session: Session, sender: SenderKey, reply: UnsentReply) -> UnsentReply | None:
    """Store a reply for another try. Returns the one that is dropped for it, if there are too many."""
    settle(session, sender, reply)
    row = (*sender, *reply.key, reply.tenant_id, reply.model_dump_json())
    session.insert("unsent_replies (scheme, scope, seq, address, tenant_id, document)", [row])
    [count] = session.execute(f"SELECT COUNT(*) FROM unsent_replies {_OF_SENDER}", sender).fetchone()  # noqa: S608 code
    if count <= _MAX_UNSENT:
        return None
    tenants = f"SELECT tenant_id FROM unsent_replies {_OF_SENDER} GROUP BY tenant_id"  # noqa: S608 code
    most = f"{tenants} ORDER BY COUNT(*) DESC LIMIT 1"  # no other tenant loses a reply for it
    oldest = f"{_UNSENT} AND tenant_id = ({most}) ORDER BY seq LIMIT 1"
    [document] = session.execute(oldest, (*sender, *sender)).fetchone()
    dropped = UnsentReply.model_validate_json(document)
    settle(session, sender, dropped)
    return dropped


def settle(session: Session, sender: SenderKey, reply: UnsentReply) -> None:
    """Delete a reply that has arrived or is dropped."""
    statement = f"DELETE FROM unsent_replies {_OF_SENDER} AND seq = ? AND address = ?"  # noqa: S608 code
    session.execute(statement, (*sender, *reply.key))


class Lines:
    """Which replies of each line are still to arrive, by the numbers of their events."""

    def __init__(self) -> None:
        self._open: dict[str, dict[int, bool]] = {}  # the number, and whether it waits for another try
        self._moved = asyncio.Event()

    def join(self, line: str, seq: int, *, waits: bool = False) -> None:
        """Take a place in a line, or say that the reply there `waits` for another try."""
        self._open.setdefault(line, {})[seq] = waits
        self._tell()

    def leave(self, line: str, seq: int) -> None:
        """Give the place up: the next may go."""
        places = self._open.get(line, {})
        places.pop(seq, None)
        if not places:
            self._open.pop(line, None)
        self._tell()

    async def comes_first(self, line: str, seq: int, *, patient: bool = False) -> bool:
        """Wait until no earlier reply is left; unless `patient`, False if one of them waits for a retry."""
        while True:
            earlier = [waits for number, waits in self._open.get(line, {}).items() if number < seq]
            if not earlier:
                return True
            if any(earlier) and not patient:
                return False
            await self._moved.wait()

    def _tell(self) -> None:
        self._moved.set()
        self._moved = asyncio.Event()
