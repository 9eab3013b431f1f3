"""Encryption of stored secrets: Fernet (AES-128-CBC with HMAC-SHA256), with rotation of keys."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from meshwright.core.errors import ConfigError

if TYPE_CHECKING:
    from cryptography.fernet import MultiFernet


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
