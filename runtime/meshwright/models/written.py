"""Messages of a conversation as each reader of its requests has them, kept from call to call.

Each call of a model sends the whole conversation. A long run would write, measure and count its first
messages again at every step.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import is_
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, TypeVarTuple

if TYPE_CHECKING:
    from meshwright.models.port import ChatMessage, ModelRequest

_MAX_FORMS = 8  # of one conversation: several deployments may take turns at it


class WrittenForm(Protocol):
    """Messages in the form that a reader needs, to which it adds further ones."""

    def add(self, message: ChatMessage) -> None:
        """Add the next message."""


_FormT = TypeVar("_FormT", bound=WrittenForm)
_ArgumentTs = TypeVarTuple("_ArgumentTs")


class WrittenMessages:
    """The forms of one conversation, from which each call goes on. They live as long as the conversation.

    Messages are known by their identity. A conversation that was shortened, or goes on from an earlier
    message, is written again.
    """

    __slots__ = ("_forms",)

    def __init__(self) -> None:
        self._forms: dict[Any, tuple[tuple[ChatMessage, ...], Any]] = {}

    def form(
        self, messages: tuple[ChatMessage, ...], kind: Callable[..., _FormT], arguments: tuple[Any, ...]
    ) -> _FormT:
        """The form `kind(*arguments)` of messages."""
        key = kind, arguments
        before: tuple[ChatMessage, ...] = ()
        if key in self._forms:
            before, form = self._forms.pop(key)  # a form that fails half way is not kept
            if len(before) > len(messages) or not all(map(is_, before, messages)):
                before, form = (), kind(*arguments)
        else:
            form = kind(*arguments)
            if len(self._forms) == _MAX_FORMS:
                del self._forms[next(iter(self._forms))]  # used least recently
        for message in messages[len(before) :] if before else messages:
            form.add(message)
        self._forms[key] = messages, form
        return form


def written(
    request: ModelRequest, kind: Callable[[*_ArgumentTs], _FormT], *arguments: *_ArgumentTs
) -> _FormT:
    """The messages of a request in the form `kind(*arguments)`.

    Its conversation may go on with the same object: readers copy what they change or keep.
    """
    kept = request.context.written
    if kept is not None:
        return kept.form(request.messages, kind, arguments)
    form = kind(*arguments)
    for message in request.messages:
        form.add(message)
    return form
