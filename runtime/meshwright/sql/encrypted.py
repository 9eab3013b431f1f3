"""Columns that hold encrypted secrets, and their encryption with a newer key."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from meshwright.core.cipher import Cipher
from meshwright.sql.database import Database, Session


class EncryptedColumn(NamedTuple):
    """A column of text in which each value that is not NULL was encrypted by `mesh.cipher`."""

    table: str
    column: str


async def renew_all(database: Database, cipher: Cipher, columns: Sequence[EncryptedColumn]) -> int:
    """Encrypt all values of columns with the newest key; returns how many there are.

    A value that changes meanwhile is encrypted with that key already. Raises ConfigError for one that no key
    fits; what came before it is done.
    """
    renewed = 0
    for column in columns:
        for value in await database.read(_values, column):
            await database.write(_replace, column, value, cipher.renew(value))
            renewed += 1
    return renewed


def _values(session: Session, of: EncryptedColumn) -> list[str]:
    select = f"SELECT {of.column} FROM {of.table} WHERE {of.column} IS NOT NULL"  # noqa: S608 names in code
    return [value for (value,) in session.execute(select).fetchall()]


def _replace(session: Session, of: EncryptedColumn, old: str, new: str) -> None:
    update = f"UPDATE {of.table} SET {of.column} = ? WHERE {of.column} = ?"  # noqa: S608 names in code
    session.execute(update, (new, old))
