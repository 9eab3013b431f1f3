"""The evidence in the folder of a mesh on SQLite."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

from meshwright.engine.sql.sqlite import SqliteDatabase
from meshwright.parts.proving.evidence import read_evidence
from meshwright.parts.proving.oracle import Evidence
from meshwright.parts.proving.records import Records


async def gather(folder: Path, *, kills: int = 0, cost_usd: Decimal | None = None) -> Evidence:
    """Read the file of a mesh that has stopped or was killed, and the records beside it."""
    database = SqliteDatabase(folder / "data")
    return await read_evidence(database, Records(folder), kills=kills, cost_usd=cost_usd)
