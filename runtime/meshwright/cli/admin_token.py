"""The admin token: the secret by which `mesh` commands administer the mesh of a data folder."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING

from meshwright.errors import ConfigError
from meshwright.sql.folder import make_private, open_private, read_private

if TYPE_CHECKING:
    from meshwright.settings import Settings

FILE_NAME = "admin.token"
VARIABLE = "MESH_ADMIN_TOKEN"
SECRET_BYTES = 32
REMEDY = "remove the file, and mesh up makes another"


def with_admin_token(settings: Settings) -> Settings:
    """The settings with an admin token: the one they name, else that of the data folder.

    A folder that has none gets one, which stays the same until its file is removed. Raises ConfigError for a
    file that is not a token.
    """
    if settings.admin_token is not None:
        return settings
    from pydantic import SecretStr

    return settings.having(admin_token=SecretStr(_made(settings.data_dir)))


def admin_token(settings: Settings) -> str | None:
    """The admin token of the settings, else of their data folder; None where neither has one.

    Raises ConfigError for a file that is not a token.
    """
    if settings.admin_token is not None:
        return settings.admin_token.get_secret_value()
    try:
        return _read(settings.data_dir / FILE_NAME)
    except FileNotFoundError:
        return None


def token_of_environment() -> str | None:
    """The admin token, or a key, for a mesh elsewhere."""
    return os.environ.get(VARIABLE) or None


def _made(folder: Path) -> str:
    path = make_private(folder) / FILE_NAME
    try:
        descriptor = open_private(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    except FileExistsError:
        return _read(path)
    except OSError as error:
        raise ConfigError(
            f"cannot be written: {error.strerror or error}",
            path=str(path),
            remedy="choose another folder with --data DIR",
        ) from error
    from meshwright.settings import ADMIN_PREFIX

    token = ADMIN_PREFIX + secrets.token_urlsafe(SECRET_BYTES)
    with os.fdopen(descriptor, "w") as file:
        file.write(f"{token}\n")
    return token


def _read(path: Path) -> str:
    try:
        token = read_private(path).strip()
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot be read: {error}", path=str(path), remedy=REMEDY) from error
    from meshwright.settings import ADMIN_PREFIX

    if not token.startswith(ADMIN_PREFIX) or not token.isascii() or not token.isprintable():
        raise ConfigError("holds no admin token", path=str(path), remedy=REMEDY)
    return token
