"""What has been written to a database."""

from __future__ import annotations

import sqlite3


def written(connection: sqlite3.Connection) -> dict[str, float]:
    """Rows written over a connection, and the size of its file in bytes."""
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    (page_size,) = connection.execute("PRAGMA page_size").fetchone()
    return {"rows": connection.total_changes, "bytes": pages * page_size}
