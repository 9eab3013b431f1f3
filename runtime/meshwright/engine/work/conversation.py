"""The conversation of a thread: requests and answers in order, by any agent.

The actor's id is `{tenant}:{thread}`, as of each agent's thread. A run adds to it before it ends, and
before it waits: then its request is open, and a note in the place of the answer says what it waits for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from msgspec import field

from meshwright.core.encoding import Struct, encode
from meshwright.engine.kernel.actor import Actor, Turn, turn
from meshwright.engine.kernel.envelope import ActorRef

if TYPE_CHECKING:
    from meshwright.engine.kernel.runtime import Runtime

CONVERSATION = "Conversation"
MESSAGES = "messages"
"""The stream of records that holds all messages."""
_MAX_RECENT = 40
_MAX_RECENT_BYTES = 64 * 1024
_MAX_SHARE = 4  # of the bytes, that one message may take where not all fit: a quarter
_MAX_FIRST_BYTES = 8 * 1024
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
    """The latest messages, oldest first, and the thread's first request, which may be among them.

    `total` counts all messages of the thread; `first` is None where it is not known, or was erased.
    """

    messages: tuple[ThreadMessage, ...] = ()
    total: int = 0
    first: ThreadMessage | None = None


class ConversationState(Struct, frozen=False):
    """How many messages there are, the first request, and the latest messages.

    `count` numbers the records of the messages. `total` leaves out those that others have replaced; None is a
    state of an earlier version.
    """

    count: int = 0
    recent: list[ThreadMessage] = field(default_factory=list)
    total: int | None = None
    first: ThreadMessage | None = None


class Conversation(Actor[ConversationState]):
    """Keeps the messages of a thread, and tells the first request and the latest messages."""

    @turn
    def add(self, turn: Turn, addition: TaskMessages) -> None:
        """Add messages at the end. A task that ends again, after a crash, has its messages there already.

        The answer to an open request stands with it where nothing was said since, else at the end.
        """
        recent, total = self.state.recent, self._total
        existing = [message for message in recent if message.task_id == addition.task_id]
        if existing and not existing[-1].is_open:
            return
        new = addition.messages
        if existing and addition.messages[-1].is_open:
            recent[recent.index(existing[-1])] = addition.messages[-1]
            return
        if existing and recent[-1] is existing[-1]:
            del recent[-len(existing) :]  # nothing came since: the answer follows its request
            total -= len(existing)
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
        messages = [*recent, *new]
        self._settle(messages, total + len(new))
        self.state.recent = _latest(messages)

    @turn
    def forget(self, turn: Turn, task_id: str) -> None:
        """Drop the messages of a task."""
        before = self.state.recent
        messages = [message for message in before if message.task_id != task_id]
        total = self._total - (len(before) - len(messages))
        if self.state.first is not None and self.state.first.task_id == task_id:
            self.state.first = None
        self._settle(messages, total)
        self.state.recent = messages

    @turn
    def recent(self, turn: Turn) -> Recent:
        """The latest messages; changes nothing."""
        state = self.state
        return Recent(messages=tuple(state.recent), total=self._total, first=state.first)

    @property
    def _total(self) -> int:
        return self.state.count if self.state.total is None else self.state.total

    def _settle(self, messages: Sequence[ThreadMessage], total: int) -> None:
        """Count the messages; where these are all of them, the first request is among them."""
        self.state.total = total
        if len(messages) == total:
            first = next((message for message in messages if message.role == "user"), None)
            self.state.first = first and _cut(first, _MAX_FIRST_BYTES)


def conversation_ref(thread: ActorRef) -> ActorRef:
    """The conversation of an agent's thread."""
    return ActorRef(CONVERSATION, thread.id)


async def read_recent(runtime: Runtime, thread: ActorRef) -> Recent:
    """The latest messages of an agent's thread."""
    return Recent.model_validate(await runtime.call(conversation_ref(thread), "recent", None))


def _latest(messages: list[ThreadMessage]) -> list[ThreadMessage]:
    """As many of the last messages as may be sent, and the very last however large it is.

    None takes over a quarter of the room if not all fit.
    """
    latest = messages[-_MAX_RECENT:]
    if _size(latest[-1]) > _MAX_RECENT_BYTES:
        return latest[-1:]
    if sum(map(_size, latest)) > _MAX_RECENT_BYTES:
        latest = [_cut(message, _MAX_RECENT_BYTES // _MAX_SHARE) for message in latest]
    sizes: list[int] = [*map(_size, latest)]
    while len(latest) > 1 and sum(sizes) > _MAX_RECENT_BYTES:
        del latest[0], sizes[0]
    return latest


def _size(message: ThreadMessage) -> int:
    return len(encode(message))


def _cut(message: ThreadMessage, max_bytes: int) -> ThreadMessage:
    """The message, or as much of its beginning as fits in about that many bytes, and an ellipsis."""
    size, content = _size(message), message.content
    if size <= max_bytes:
        return message
    return message.model_copy(update={"content": f"{content[: len(content) * max_bytes // size]}…"})
