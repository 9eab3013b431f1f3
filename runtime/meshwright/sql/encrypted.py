"""Stored secrets: their keys, the places that hold them encrypted, and the encryption with a newer key."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from meshwright.core.cipher import Cipher, new_key
from meshwright.sql.database import Database, Session
from meshwright.sql.folder import KeyFile


class EncryptedColumn(NamedTuple):
    """A column of text in which each value that is not NULL was encrypted by `mesh.cipher`."""

    table: str
    column: str


class Secrets:
    """The stored secrets of a mesh, encrypted with the keys of the settings, or else of a file.

    `columns` belong to all components; `renewals` renew what others hold in their actors, each of which
    returns how many secrets that were. Raises ConfigError for a key that cannot be used.
    """

    def __init__(self, database: Database, keys: Sequence[str], file: Path) -> None:
        self.columns: Sequence[EncryptedColumn] = ()
        self.renewals: list[Callable[[], Awaitable[int]]] = []
        self._database = database
        self._file = None if keys else KeyFile(file, new_key)
        if self._file is None:
            self.cipher = Cipher(lambda: keys, "the setting secrets.keys")
            self.cipher.encrypt("")  # so that an unusable key stops the start
        else:
            self.cipher = Cipher(self._file.keys, str(file))

    async def rotate(self) -> int:
        """Encrypt all secrets with the newest key, and return how many there are.

        Keys of a file get a new one for that; the older ones stay, for copies of the data. A value that
        changes meanwhile is encrypted with that key already. Raises ConfigError for a secret that no key
        fits; what came before it is done.
        """
        if self._file is not None:
            self._file.add()
        renewed = 0
        for column in self.columns:
            for value in await self._database.read(_values, column):
                await self._database.write(_replace, column, value, self.cipher.renew(value))
                renewed += 1
        for renew in self.renewals:
            renewed += await renew()
        return renewed


def _values(session: Session, of: EncryptedColumn) -> list[str]:
    select = f"SELECT {of.column} FROM {of.table} WHERE {of.column} IS NOT NULL"  # noqa: S608 names in code
    return [value for (value,) in session.execute(select).fetchall()]


def _replace(session: Session, of: EncryptedColumn, old: str, new: str) -> None:
    update = f"UPDATE {of.table} SET {of.column} = ? WHERE {of.column} = ?"  # noqa: S608 names in code
    session.execute(update, (new, old))
