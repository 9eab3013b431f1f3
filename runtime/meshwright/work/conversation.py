"""The conversation of a thread: what was asked and answered in it, in order, by any agent.

The actor's id is `{tenant}:{thread}`, as that of each agent's thread. A run adds to it before it ends.
"""

from __future__ import annotations

from typing import Any, Literal

from msgspec import field

from meshwright.core.encoding import Struct, encode
from meshwright.kernel.actor import Actor, Turn, turn
from meshwright.kernel.envelope import ActorRef

CONVERSATION = "Conversation"
MESSAGES = "messages"
"""The stream of records that holds all messages."""
_MAX_RECENT = 40
_MAX_RECENT_BYTES = 64 * 1024


class ThreadMessage(Struct):
    """One message: what somebody asked, or an agent answered."""

    role: Literal["user", "assistant"]
    content: str
    task_id: str = ""
    agent_id: str = ""


class Said(Struct):
    """What was said in a task."""

    task_id: str
    messages: tuple[ThreadMessage, ...]


class Recent(Struct):
    """The latest messages, oldest first."""

    messages: tuple[ThreadMessage, ...] = ()


class ConversationState(Struct, frozen=False):
    """How many messages there are, and the latest of them."""

    count: int = 0
    recent: list[ThreadMessage] = field(default_factory=list)


class Conversation(Actor[ConversationState]):
    """Keeps the messages of a thread, and tells the latest."""

    @turn
    def add(self, turn: Turn, said: Said) -> None:
        """Add messages at the end; those of a task that ends again, after a crash, are there already."""
        if any(message.task_id == said.task_id for message in self.state.recent):
            return
        for message in said.messages:
            self.state.count += 1
            turn.append(MESSAGES, self.state.count, message)
        self.state.recent = _latest([*self.state.recent, *said.messages])

    @turn
    def forget(self, turn: Turn, task_id: str) -> None:
        """Drop what was said in a task."""
        self.state.recent = [message for message in self.state.recent if message.task_id != task_id]

    @turn
    def recent(self, turn: Turn) -> Recent:
        """The latest messages; changes nothing."""
        return Recent(messages=tuple(self.state.recent))


def conversation_of(thread: ActorRef) -> ActorRef:
    """The conversation of an agent's thread."""
    return ActorRef(CONVERSATION, thread.id)


def _latest(messages: list[ThreadMessage]) -> list[ThreadMessage]:
    """As many of the last messages as may be sent, and the very last however large it is."""
    kept = messages[-_MAX_RECENT:]
    sizes: list[Any] = [len(encode(message)) for message in kept]
    while len(kept) > 1 and sum(sizes) > _MAX_RECENT_BYTES:
        del kept[0], sizes[0]
    return kept
