"""The last events that a process has seen, in its data folder: by them its next start knows an older
database."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from pydantic_core import from_json, to_json

from meshwright.core.ids import new_id
from meshwright.engine.sql.database import Session
from meshwright.engine.sql.folder import read_private, write_private

FILE_NAME = "mesh.seen"
Marks = Sequence[tuple[int, str]]
"""Events by `seq` and id, in their order."""


class MarkFile:
    """Keeps the marks of one database."""

    def __init__(self, folder: Path) -> None:
        self.store = ""
        """The id of the database."""
        self._path = folder / FILE_NAME
        self._written: Marks = ()

    def read(self) -> Marks | None:
        """The marks of the process that had the folder before, None where it worked with another database."""
        with suppress(OSError, ValueError, KeyError, TypeError):  # none yet, or a crash has cut them
            fields = from_json(read_private(self._path))
            if fields["store"] != self.store:
                return None
            return [(int(seq), str(event_id)) for seq, event_id in fields["events"]]
        return ()

    def write(self, marks: Marks) -> None:
        """Write marks, if they are others than before."""
        if marks != self._written:
            with suppress(OSError):  # they may stay behind
                write_private(self._path, to_json({"store": self.store, "events": marks}).decode())
                self._written = marks


def own_store_id(session: Session) -> str:
    """The id of a database, which it gets here if it has none."""
    session.execute("INSERT INTO meta VALUES ('store', ?) ON CONFLICT (name) DO NOTHING", (new_id(),))
    [(store,)] = session.execute("SELECT value FROM meta WHERE name = 'store'").fetchall()
    return str(store)
