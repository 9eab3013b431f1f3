"""The things that parts keep, as data: the route that lists them, the columns of their table, their verbs.

Routes, client and commands follow from one `Resource`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple
from urllib.parse import quote

from meshwright.core.display import Document, printable

Need = Literal["log", "state", "change", "work"]
"""The need of a command for a mesh that does not run.

To read its `log`, or also the `state` of tasks, budgets and keys: no code of the folder runs. To `change`
something: the agents are loaded, and what waits for them stays untouched. That they `work`.
"""
_MIN_COLUMN = 8  # characters that a shortened column keeps


def _written(value: object) -> str:
    return str(value or "")


class Column(NamedTuple):
    """One column of a table: a field of each item, or without one the whole item, and how it is written.

    A terminal shows no column without text. If it is narrow, the columns with a number in `cut` are shortened
    in that order to `least` characters, `from_end` at their beginning, the others at their end. The last
    column is shortened after them; where that is not enough, columns are left out in the same order, but for
    the first.
    """

    head: str
    field: str = ""
    write: Callable[[Any], str] = _written
    cut: int = 0
    from_end: bool = False
    least: int = _MIN_COLUMN

    def cell(self, item: Document) -> str:
        """The text of an item."""
        return printable(self.write(item.get(self.field) if self.field else item))


def _always(answer: Document) -> bool:
    return True


@dataclass(frozen=True)
class Verb:
    """A command on one thing: a request, and the sentence that reports its answer.

    `path` follows the thing's own path. `says` gets the answer, with the id as `id`; without it the answer is
    printed as JSON, but for the fields in `hides`. The exit status is 1 if `succeeded` is false.
    """

    name: str
    help: str
    says: Callable[[Document], str] | None = None
    method: str = "POST"
    path: str = ""
    hides: Sequence[str] = ()
    succeeded: Callable[[Document], bool] = _always


@dataclass(frozen=True)
class Resource:
    """Things of one kind: `path` lists them, and with an id after it is one of them.

    `help` describes the group of their commands, which has the name `command` where that is another, `lists`
    the command `list` where it says more; `empty` is printed in place of a table without rows.
    """

    name: str
    path: str
    columns: Sequence[Column]
    help: str
    empty: str
    lists: str = ""
    command: str = ""
    id: str = "ID"
    need: Need = "state"
    verbs: Sequence[Verb] = ()

    def path_of(self, name: str) -> str:
        """The path of one of them."""
        return f"{self.path}/{quote(name, safe='')}"
