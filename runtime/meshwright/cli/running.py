"""How a command finds the mesh that serves a data folder, and shows that it may administer it.

`mesh.json` in the folder says where the mesh listens, `admin.token` is the secret of its administrator.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from meshwright.errors import ConfigError
from meshwright.sql.folder import make_private, open_private, read_private, write_private

if TYPE_CHECKING:
    from meshwright.settings import Settings

FILE_NAME, TOKEN_NAME = "mesh.json", "admin.token"
_TOKEN_VARIABLE = "MESH_ADMIN_TOKEN"
SECRET_BYTES = 32
REMEDY = "remove the file, and mesh up makes another"


@contextmanager
def announced(folder: Path, url: str) -> Iterator[None]:
    """Say where this process listens for as long as the context lasts."""
    path = folder / FILE_NAME
    write_private(path, json.dumps({"url": url, "pid": os.getpid()}))
    try:
        yield
    finally:
        if _read(path).get("pid") == os.getpid():
            path.unlink(missing_ok=True)


def announced_url(folder: Path) -> str | None:
    """Where the mesh of a data folder said it listens; it may be gone without having removed that."""
    url = _read(folder / FILE_NAME).get("url")
    return url if isinstance(url, str) and _is_here(url) else None


def announced_token(settings: Settings) -> str | None:
    """The admin token for the mesh that a data folder announces, or None.

    None too if the process that announced it has gone: another user's program may listen there now.
    """
    pid = _read(settings.data_dir / FILE_NAME).get("pid")
    return _admin_token(settings) if isinstance(pid, int) and _is_alive(pid) else None


def token_of_environment() -> str | None:
    """The admin token, or a key, for a mesh elsewhere."""
    return os.environ.get(_TOKEN_VARIABLE) or None


def with_admin_token(settings: Settings, *, temporary: bool = False) -> Settings:
    """The settings with an admin token: theirs, else that of the data folder, else one of this process alone.

    A folder that has none gets one, which stays the same until its file is removed. Raises ConfigError for a
    file that is not a token.
    """
    if settings.keys.admin_token is not None:
        return settings
    from pydantic import SecretStr

    token = _new_token() if temporary else _make_token(settings.data_dir)
    return settings.having(admin_token=SecretStr(token))


def _admin_token(settings: Settings) -> str | None:
    if settings.keys.admin_token is not None:
        return settings.keys.admin_token.get_secret_value()
    try:
        return _read_token(settings.data_dir / TOKEN_NAME)
    except FileNotFoundError:
        return None


def _new_token() -> str:
    from meshwright.settings import ADMIN_PREFIX

    return ADMIN_PREFIX + secrets.token_urlsafe(SECRET_BYTES)


def _make_token(folder: Path) -> str:
    path = make_private(folder) / TOKEN_NAME
    try:
        descriptor = open_private(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    except FileExistsError:
        return _read_token(path)
    except OSError as error:
        problem = f"cannot be written: {error.strerror or error}"
        raise ConfigError(problem, path=str(path), remedy="choose another folder with --data DIR") from error
    token = _new_token()
    with os.fdopen(descriptor, "w") as file:
        file.write(f"{token}\n")
    return token


def _read_token(path: Path) -> str:
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


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (OSError, OverflowError):  # gone, or another user's
        return False
    return pid > 0


def _is_here(url: str) -> bool:
    """Whether an address is one of this machine's: a folder from elsewhere must not name a mesh elsewhere."""
    try:
        host = urlsplit(url).hostname
        family = socket.AF_INET6 if host and ":" in host else socket.AF_INET
        with socket.socket(family) as probe:
            probe.bind((host or "", 0))
    except (OSError, ValueError):
        return False
    return bool(host)


def _read(path: Path) -> dict[str, object]:
    try:
        found = json.loads(read_private(path))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
