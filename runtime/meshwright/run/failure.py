"""A call of a model that failed, as a journal keeps it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import RootModel

from meshwright.errors import ModelError
from meshwright.ledger.calls import Call, left
from meshwright.messages import Plain
from meshwright.models.port import ModelReply

TOLD_APART = frozenset({"message", "call"})
"""What an error knows that has a field of its own."""


class Failure(Plain):
    """The error that ended a call: its class by name, its words, and what else it knows that is plain.

    `call` is its row of the ledger, where it was told of.
    """

    failed: str
    message: str
    known: dict[str, Any]
    call: Call | None = None

    @classmethod
    def of(cls, error: ModelError) -> Failure:
        """Note an error."""
        known = {name: value for name, value in vars(error).items() if name not in TOLD_APART}
        plain = {name: value for name, value in known.items() if isinstance(value, str | int | float | None)}
        return cls(failed=error.code, message=error.message, known=plain, call=left(error))

    @property
    def error(self) -> ModelError:
        """The error again, for whoever catches it by its class; a plain ModelError where that is gone."""
        kind = next((each for each in kinds_of(ModelError) if each.__name__ == self.failed), ModelError)
        error = kind.__new__(kind, self.message)
        vars(error).update(self.known, message=self.message)
        if self.call is not None:
            vars(error)["call"] = self.call
        return error


class Ended(RootModel[Failure | ModelReply]):
    """How a call of a model ended: the result of its step, so that a resumed run hears the same again."""


def kinds_of(kind: type[ModelError]) -> Iterator[type[ModelError]]:
    """A class of errors and all below it."""
    yield kind
    for each in kind.__subclasses__():
        yield from kinds_of(each)
