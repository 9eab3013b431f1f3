"""The conversation of a thread: requests and answers in order, by any agent.

The actor's id is `{tenant}:{thread}`, as of each agent's thread. A run adds to it before it ends, and
before it waits: then its request is open, and a note in the place of the answer says what it waits for.
"""

from __future__ import annotations

from typing import Any, Literal

from msgspec import field

from meshwright.core.encoding import Struct, encode
from meshwright.engine.kernel.actor import Actor, Turn, turn
from meshwright.engine.kernel.envelope import ActorRef

CONVERSATION = "Conversation"
MESSAGES = "messages"
"""The stream of records that holds all messages."""
_MAX_RECENT = 40
_MAX_RECENT_BYTES = 64 * 1024
_MAX_QUOTED_CHARS = 200
_ANSWERED_LATER = "The answer is further below."
_EARLIER = 'The answer to the earlier request "{}":'


class ThreadMessage(Struct):
    """One message: a request, or an agent's answer; of an open request a note instead.

    `outside` says that its run had read text from outside.
    """

    role: Literal["user", "assistant"]
    content: str
    task_id: str = ""
    agent_id: str = ""
    is_open: bool = False
    outside: bool = False


class TaskMessages(Struct):
    """The messages of a task."""

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
    def add(self, turn: Turn, addition: TaskMessages) -> None:
        """Add messages at the end. A task that ends again, after a crash, has its messages there already.

        The answer to an open request stands with it where nothing was said since, else at the end.
        """
        recent = self.state.recent
        existing = [message for message in recent if message.task_id == addition.task_id]
        if existing and not existing[-1].is_open:
            return
        new = addition.messages
        if existing and addition.messages[-1].is_open:
            recent[recent.index(existing[-1])] = addition.messages[-1]
            return
        if existing and recent[-1] is existing[-1]:
            del recent[-len(existing) :]  # nothing came since: the answer follows its request
        elif existing:
            for message in existing:
                text = message.content if message.role == "user" else _ANSWERED_LATER
                closed = message.model_copy(update={"is_open": False, "content": text})
                recent[recent.index(message)] = closed
            request = addition.messages[0]
            quote = " ".join(request.content.split())[:_MAX_QUOTED_CHARS]
            new = (request.model_copy(update={"content": _EARLIER.format(quote)}), *addition.messages[1:])
        for message in new:
            self.state.count += 1
            turn.append(MESSAGES, self.state.count, message)
        self.state.recent = _latest([*recent, *new])

    @turn
    def forget(self, turn: Turn, task_id: str) -> None:
        """Drop the messages of a task."""
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
    latest = messages[-_MAX_RECENT:]
    sizes: list[Any] = [len(encode(message)) for message in latest]
    while len(latest) > 1 and sum(sizes) > _MAX_RECENT_BYTES:
        del latest[0], sizes[0]
    return latest
