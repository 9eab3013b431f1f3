"""What is counted of the messages of a conversation that grows, once for each message."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from meshwright.models.port import ChatMessage

ValueT = TypeVar("ValueT")


class Prefix(Generic[ValueT]):
    """Adds up messages: what a conversation began with before is not looked at again.

    A message is known by its identity, so code that changes one within the conversation must call `forget`.
    """

    def __init__(self, start: ValueT, add: Callable[[ValueT, ChatMessage], ValueT]) -> None:
        self._add = add
        self._messages: list[ChatMessage] = []
        self._values = [start]

    def forget(self) -> None:
        """Begin again."""
        del self._messages[:], self._values[1:]

    def of(self, messages: Sequence[ChatMessage]) -> ValueT:
        """What all messages add up to."""
        known = min(len(self._messages), len(messages))
        while known and self._messages[known - 1] is not messages[known - 1]:
            known -= 1
        del self._messages[known:], self._values[known + 1 :]
        for message in messages[known:]:
            self._messages.append(message)
            self._values.append(self._add(self._values[-1], message))
        return self._values[-1]
