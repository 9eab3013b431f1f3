"""Records on their way to the file: which are not in it yet, and whether one is there already."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic_core import from_json

from meshwright.envelope import ActorRef, Record
from meshwright.hosts.embedded.cells import Cells

IS_WRITTEN = "SELECT 1 FROM records WHERE type = ? AND id = ? AND stream = ? AND n = ?"
SELECTED = """
    SELECT n, value FROM records WHERE type = ? AND id = ? AND stream = ? AND n BETWEEN ? AND ? ORDER BY n
"""
MAX_N = 2**63 - 1  # of SQLite's integers


class Records:
    """The records of a host's actors, those in the file and those in groups that are not durable yet."""

    def __init__(self, cells: Cells) -> None:
        self._cells = cells
        self._unwritten: dict[ActorRef, list[tuple[str, int]]] = {}

    def is_unwritten(self, ref: ActorRef) -> bool:
        """Whether records of that actor are not in the file yet."""
        return ref in self._unwritten

    def is_new(self, record: Record) -> bool:
        """Whether nobody has written that number. Asks the file only where this process cannot know."""
        key = (record.stream, record.n)
        cell = self._cells.active(record.ref)
        if cell is not None and cell.born_here:
            return key not in cell.records
        if key in self._unwritten.get(record.ref, ()):
            return False
        return not self._cells.read(IS_WRITTEN, (*record.ref, *key))

    def note(self, records: Sequence[Record]) -> None:
        """These are in a group now."""
        for record in records:
            key = (record.stream, record.n)
            self._unwritten.setdefault(record.ref, []).append(key)
            cell = self._cells.active(record.ref)
            if cell is not None:
                cell.records.add(key)

    def written(self, records: Sequence[Record]) -> None:
        """These are in the file now."""
        for record in records:
            keys = self._unwritten[record.ref]
            keys.remove((record.stream, record.n))
            if not keys:
                del self._unwritten[record.ref]

    def read(self, ref: ActorRef, stream: str, first: int, last: int | None) -> list[Record]:
        """The records of a stream that are in the file from one number to another, in order."""
        rows = self._cells.read(SELECTED, (*ref, stream, first, MAX_N if last is None else last))
        return [Record(ref, stream, n, from_json(value)) for n, value in rows]
