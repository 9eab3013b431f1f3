"""Encrypted secrets and their keys."""

import stat
from pathlib import Path

import pytest

from meshwright.core.errors import ConfigError
from meshwright.core.redaction import redact
from meshwright.engine.sql.encryption import Cipher, EncryptedColumn, Secrets, new_key
from meshwright.engine.sql.folder import KeyFile
from meshwright.engine.sql.sqlite import SqliteDatabase

TEXT = "xoxb-a-token-of-slack ☃"


def key_file(folder: Path) -> KeyFile:
    return KeyFile(folder / "secret.key", new_key)


def cipher_of(folder: Path) -> Cipher:
    return Cipher(key_file(folder).keys, str(folder / "secret.key"))


def test_what_was_encrypted_comes_back_after_a_restart(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    encrypted = cipher_of(folder).encrypt(TEXT)
    assert TEXT not in encrypted and encrypted.isascii()
    assert cipher_of(folder).decrypt(encrypted) == TEXT
    assert redact(f"it says {encrypted} here") == "it says [redacted] here"


def test_the_key_file_is_private_from_the_first_moment(tmp_path: Path) -> None:
    cipher_of(tmp_path / "data").encrypt(TEXT)
    assert stat.S_IMODE((tmp_path / "data").stat().st_mode) == 0o700
    assert {path.name for path in (tmp_path / "data").iterdir()} == {"secret.key", ".gitignore"}
    assert stat.S_IMODE((tmp_path / "data" / "secret.key").stat().st_mode) == 0o600


def test_a_link_in_the_place_of_the_key_file_is_not_followed(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text(new_key())
    folder = tmp_path / "data"
    cipher_of(folder).encrypt(TEXT)
    (folder / "secret.key").unlink()
    (folder / "secret.key").symlink_to(elsewhere)
    with pytest.raises(ConfigError, match=r"secret\.key: cannot be read"):
        cipher_of(folder).encrypt(TEXT)


def test_a_key_added_by_another_process_counts_at_once(tmp_path: Path) -> None:
    cipher, other = cipher_of(tmp_path), key_file(tmp_path)
    old = cipher.encrypt(TEXT)
    other.add()
    new = cipher.encrypt(TEXT)
    newest_alone = Cipher(lambda: other.keys()[:1], "the newest key")
    assert newest_alone.decrypt(new) == TEXT == cipher.decrypt(old)
    with pytest.raises(ConfigError, match="the newest key"):
        newest_alone.decrypt(old)


def test_a_missing_key_is_named_by_where_it_should_be(tmp_path: Path) -> None:
    encrypted = cipher_of(tmp_path / "one").encrypt(TEXT)
    with pytest.raises(ConfigError, match=r"keys of .*two/secret\.key") as missing:
        cipher_of(tmp_path / "two").decrypt(encrypted)
    assert TEXT not in str(missing.value) and encrypted not in str(missing.value)


def test_something_that_is_no_key_is_refused_without_being_shown() -> None:
    with pytest.raises(ConfigError, match=r"secrets\.keys holds something") as wrong:
        Cipher(lambda: ["hunter2"], "the setting secrets.keys").encrypt(TEXT)
    assert "hunter2" not in str(wrong.value)


async def test_stored_secrets_are_encrypted_again_with_the_newest_key(tmp_path: Path) -> None:
    keys, database = key_file(tmp_path), SqliteDatabase(tmp_path)
    secrets = Secrets(database, (), keys.path)
    secrets.columns = [EncryptedColumn("secrets_of_a_test", "secret")]
    await database.open()
    try:
        await database.write(_make, [secrets.cipher.encrypt(f"{TEXT} {n}") for n in range(3)])
        assert await secrets.rotate() == 3
        newest_alone = Cipher(lambda: keys.keys()[:1], "the newest key")
        stored = await database.read(_stored)
        assert [value and newest_alone.decrypt(value) for value in stored] == [
            None,
            *(f"{TEXT} {n}" for n in range(3)),
        ]
    finally:
        await database.close()


def _make(session, values) -> None:
    session.execute("CREATE TABLE secrets_of_a_test (n INTEGER PRIMARY KEY, secret TEXT)")
    session.insert("secrets_of_a_test (secret)", [(None,), *((value,) for value in values)])


def _stored(session) -> list[str | None]:
    return [
        value for (value,) in session.execute("SELECT secret FROM secrets_of_a_test ORDER BY n").fetchall()
    ]
