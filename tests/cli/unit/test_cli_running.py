"""How a command finds the mesh that serves a data folder."""

import json
import os
from pathlib import Path

import pytest

from meshwright.console.connect import announced, announced_url


def test_a_mesh_is_found_as_long_as_it_runs(tmp_path: Path) -> None:
    with announced(tmp_path, "http://127.0.0.1:1234"):
        assert announced_url(tmp_path) == "http://127.0.0.1:1234"
        assert json.loads((tmp_path / "mesh.json").read_text())["pid"] == os.getpid()
    assert announced_url(tmp_path) is None
    assert list(tmp_path.iterdir()) == []


def test_the_word_of_another_process_is_left_alone(tmp_path: Path) -> None:
    with announced(tmp_path, "http://127.0.0.1:1234"):
        (tmp_path / "mesh.json").write_text('{"url": "http://127.0.0.1:5678", "pid": 1}')
    assert announced_url(tmp_path) == "http://127.0.0.1:5678"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"url": 7}', "\x00"])
def test_a_file_that_says_nothing_counts_as_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "mesh.json").write_text(text)
    assert announced_url(tmp_path) is None


@pytest.mark.parametrize(
    "url", ["http://203.0.113.7:8000", "http://[2001:db8::7]:8000", "http://:1", "http://["]
)
def test_a_folder_cannot_name_a_mesh_of_another_machine(tmp_path: Path, url: str) -> None:
    (tmp_path / "mesh.json").write_text(json.dumps({"url": url, "pid": 1}))
    assert announced_url(tmp_path) is None
