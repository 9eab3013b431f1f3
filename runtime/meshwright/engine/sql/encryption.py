"""Stored secrets: Fernet (AES-128-CBC with HMAC-SHA256), its keys, the encrypted columns, and newer keys."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from meshwright.core.errors import ConfigError
from meshwright.engine.sql.database import Database, Session
from meshwright.engine.sql.folder import KeyFile

if TYPE_CHECKING:
    from cryptography.fernet import MultiFernet


class EncryptedColumn(NamedTuple):
    """A column of text in which each value that is not NULL was encrypted by `mesh.cipher`."""

    table: str
    """The table."""
    column: str
    """The column of text."""


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


class Cipher:
    """Encrypts with the newest key, decrypts with any.

    `read_keys` returns the keys, newest first, each 32 bytes in URL-safe base64; it is asked at each call, so
    that keys which another process has added count at once. `where` says for people where they come from.
    """

    def __init__(self, read_keys: Callable[[], Sequence[str]], where: str) -> None:
        self._read_keys = read_keys
        self.where = where
        self._made: tuple[Sequence[str], MultiFernet] | None = None

    def encrypt(self, text: str) -> str:
        """The text, encrypted and authenticated, as ASCII. Raises ConfigError for unusable keys."""
        return self._fernet().encrypt(text.encode()).decode()

    def decrypt(self, encrypted: str) -> str:
        """The text again. Raises ConfigError where no key fits, or the text was changed."""
        from cryptography.fernet import InvalidToken

        try:
            return self._fernet().decrypt(encrypted.encode()).decode()
        except (InvalidToken, UnicodeError):
            raise self._no_key_fits() from None

    def renew(self, encrypted: str) -> str:
        """The same text, encrypted with the newest key. Raises ConfigError as `decrypt` does."""
        return self.encrypt(self.decrypt(encrypted))

    def _fernet(self) -> MultiFernet:
        from cryptography.fernet import Fernet, MultiFernet

        keys = self._read_keys()
        try:
            if self._made is None or self._made[0] != keys:
                self._made = keys, MultiFernet([Fernet(key) for key in keys])
        except ValueError:
            raise ConfigError(
                f"{self.where} holds something that is no key",
                remedy="A key is 32 random bytes in URL-safe base64; mesh secrets new-key prints one",
            ) from None
        return self._made[1]

    def _no_key_fits(self) -> ConfigError:
        return ConfigError(
            f"A stored secret cannot be decrypted with the keys of {self.where}",
            remedy="Put the key back with which it was encrypted, or store the secret again",
        )


def new_key() -> str:
    """A new key for a `Cipher`."""
    from cryptography.fernet import Fernet

    return Fernet.generate_key().decode()
