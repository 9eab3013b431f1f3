"""Folders that programs have filled are removed, however deep and whatever the rights."""

import os
from pathlib import Path

import pytest

from meshwright.core.folders import remove_folder, temporary_folder
from tests.support.folders import nested

LEVELS = 3_000  # more than Python recurses, and with these names more than a path may be long


def test_folders_deeper_than_paths_are_long_are_removed(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / "doomed" / name).mkdir(parents=True)
        nested(tmp_path / "doomed" / name, LEVELS)
    remove_folder(tmp_path / "doomed")
    with temporary_folder("meshwright-test-") as folder:
        nested(folder, LEVELS)
    assert not folder.exists() and [*tmp_path.iterdir()] == []


def test_a_folder_without_rights_is_removed_and_links_are_not_followed(tmp_path: Path) -> None:
    doomed, kept = tmp_path / "doomed", tmp_path / "kept"
    inner = doomed / "inner"
    inner.mkdir(parents=True)
    kept.mkdir()
    (kept / "file").write_text("stays")
    (inner / "link").symlink_to(kept)
    os.mkfifo(inner / "pipe")
    for folder in (inner, doomed):
        folder.chmod(0)
    remove_folder(doomed)
    (tmp_path / "way").symlink_to(kept)
    with pytest.raises(NotADirectoryError, match="is a link"):
        remove_folder(tmp_path / "way")
    assert not doomed.exists() and (kept / "file").read_text() == "stays"
