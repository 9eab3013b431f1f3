"""Stored replies: the addresses of each task, and the position and open replies of each scheme's sender."""

from __future__ import annotations

from collections import Counter
from datetime import datetime

from pydantic import BaseModel, Field

from meshwright.core.errors import TooLarge
from meshwright.core.messages import Caller, Plain
from meshwright.kernel.actor import Actor, Turn, turn

_MAX_REPLIES = 8  # of one client that a task's outcome is sent to, the last
MAX_CLIENTS = 32
"""Clients that a task's outcome is sent to."""
_MAX_FAILED = 1000  # replies of one scheme that wait for another try; above that one is dropped


class Address(Plain):
    """The destination of an outcome: the fields of its scheme, and the client that asked for it."""

    client: str = Caller().requested_by


class ReplyAddresses(BaseModel):
    """The addresses that get the outcome of a task."""

    replies: list[Address] = Field(default_factory=list)


class TaskReplies(Actor[ReplyAddresses]):
    """The addresses of one task for one scheme; its id is that of the task's actor."""

    @turn
    def ask(self, turn: Turn, address: Address) -> None:
        """Send the outcome there too: no client displaces another. Raises TooLarge for too many clients."""
        known = [reply for reply in self.state.replies if reply != address]
        own = [reply for reply in known if reply.client == address.client]
        others = [reply for reply in known if reply.client != address.client]
        if len({reply.client for reply in others}) >= MAX_CLIENTS:
            raise TooLarge(
                f"{MAX_CLIENTS} clients wait for the outcome of task {self.ref.id} already",
                remedy="Follow the task's events instead",
                field="reply",
            )
        self.state.replies = [*others, *own[1 - _MAX_REPLIES :], address]


class Position(BaseModel):
    """The position of a sender: it has finished all outcomes up to the event of this number."""

    seq: int = 0


class FailedReply(Plain):
    """An outcome that could not be sent, by the number of its event, and when it is tried again."""

    seq: int
    tenant_id: str
    task_id: str
    address: Address
    failures: int = 1
    retry_at: datetime

    @property
    def key(self) -> tuple[int, str]:
        """Identifies the reply in all of its tries."""
        return self.seq, self.address.model_dump_json()


class Progress(Position):
    """The position of a sender, the replies it has to retry, and the incarnation that sends."""

    failed: list[FailedReply] = Field(default_factory=list)
    owner: str = ""
    begun: bool = False


class Ownership(Plain):
    """The incarnation that is to send, in place of one that is gone."""

    owner: str
    former: str


class SenderProgress(Actor[Progress]):
    """The progress of the sender of a scheme; its id is the sender's scope."""

    @turn
    def reach(self, turn: Turn, position: Position) -> None:
        """Store the position."""
        self.state.seq = position.seq

    @turn
    def begin(self, turn: Turn, position: Position) -> None:
        """Start behind the outcomes from before there was a sender; only the first call counts."""
        if not self.state.begun:
            self.state.begun, self.state.seq = True, position.seq

    @turn
    def own(self, turn: Turn, wanted: Ownership) -> bool:
        """Make that incarnation the owner; False if another was quicker."""
        if self.state.owner == wanted.former:
            self.state.owner = wanted.owner
        return self.state.owner == wanted.owner

    @turn
    def postpone(self, turn: Turn, failed: FailedReply) -> FailedReply | None:
        """Store a reply for another try. Returns the one that is dropped for it, if there are too many."""
        kept = [*(reply for reply in self.state.failed if reply.key != failed.key), failed]
        dropped = None
        if len(kept) > _MAX_FAILED:  # of the tenant that has the most: no other loses one for it
            [(tenant_id, _)] = Counter(reply.tenant_id for reply in kept).most_common(1)
            dropped = next(reply for reply in kept if reply.tenant_id == tenant_id)
            kept.remove(dropped)
        self.state.failed = kept
        return dropped

    @turn
    def settle(self, turn: Turn, done: FailedReply) -> None:
        """Forget a reply."""
        self.state.failed = [reply for reply in self.state.failed if reply.key != done.key]
