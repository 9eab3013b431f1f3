"""A file system of a test's own that can be filled up and given room again, without a byte of ballast."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Self

SIZE_BYTES = 4 * 1024**3
"""Its size: memory is used as it fills up."""


class SmallDisk:
    """A tmpfs on a folder, for the time of a block; one that fails leaves a copy of its files beside it.

    Mounting needs root: `is_there` says whether it works.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.is_there = False

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.is_there = _succeeds(
            "mount", "-t", "tmpfs", "-o", f"size={SIZE_BYTES},mode=0700", "tmpfs", str(self.folder)
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.is_there:
            if error is not None:  # what it holds says why
                shutil.copytree(self.folder, self.folder.with_name(f"{self.folder.name}-left"))
            _succeeds("umount", "--lazy", str(self.folder))

    def fill(self) -> None:
        """Leave it no room: whatever needs another block gets ENOSPC."""
        while not self._resize(self._used_bytes()):  # more was written meanwhile
            pass

    def make_room(self) -> None:
        assert self._resize(SIZE_BYTES)

    def _used_bytes(self) -> int:
        found = os.statvfs(self.folder)
        return (found.f_blocks - found.f_bfree) * found.f_frsize

    def _resize(self, size: int) -> bool:
        return _succeeds("mount", "-o", f"remount,size={size}", str(self.folder))


def _succeeds(*command: str) -> bool:
    return subprocess.run(command, check=False, capture_output=True).returncode == 0
