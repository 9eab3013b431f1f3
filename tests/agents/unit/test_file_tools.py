"""The file tools over real folders: what they show, how they search, and that nothing leads outside."""

import os
from pathlib import Path
from typing import Any

import pytest

from meshwright.agents.tools import toolset as workspace_module
from meshwright.agents.tools.workspace import path_matches
from meshwright.core.errors import ConfigError, InvalidInput, MeshError, TooLarge
from meshwright.tools import FileTools, ToolSettings, collect_tools


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """A project, and beside it a secret that must never be seen."""
    root = tmp_path / "project"
    for path, text in {
        "README.md": "Meshwright survives kill -9.\n",
        "docs/guide.md": "One\r\ntwo\x0cstill two\r\nthree\n",
        "src/mesh/core.py": "# why kill is safe\ndef kill(signal=9):\n    return signal\n",
        "src/mesh/edge.py": "signal = 'kill' # and core\n",
        "src/node_modules/a.js": "kill -9",
        ".venv/lib.py": "kill -9",
        ".pytest_cache/v.md": "kill -9",
        ".git/config": "password = kill -9",
        ".mesh/mesh.db": "kill -9",
        ".env": "KEY=kill -9",
        ".env.local": "KEY=kill -9",
        ".ci/run": "make test\n",
    }.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(text.encode())
    (root / "logo.png").write_bytes(b"\x89PNG\0kill -9")
    (tmp_path / "secret.txt").write_text("kill -9 secret")
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets/key.txt").write_text("kill -9 key")
    return root


@pytest.fixture
def files(workspace: Path) -> FileTools:
    return FileTools(ToolSettings(workspace=workspace))


def found(result: dict[str, Any]) -> list[tuple[str, int]]:
    return [(match["file"], match["line"]) for match in result["matches"]]


def test_the_three_tools_may_be_repeated(files: FileTools) -> None:
    assert {each.name: each.idempotent for each in collect_tools(files)} == {
        "list_files": True,
        "read_file": True,
        "search_files": True,
    }


def test_listing_leaves_out_what_is_not_the_projects_own(files: FileTools) -> None:
    assert files.list_files() == {
        "files": ["README.md", "logo.png", ".ci/run", "docs/guide.md", "src/mesh/core.py", "src/mesh/edge.py"]
    }


def test_listing_takes_a_pattern_and_a_folder(files: FileTools) -> None:
    assert files.list_files("*.py")["files"] == ["src/mesh/core.py", "src/mesh/edge.py"]
    assert files.list_files("src/**/core.*")["files"] == ["src/mesh/core.py"]
    assert files.list_files(folder="docs")["files"] == ["docs/guide.md"]
    assert files.list_files("*.rs")["files"] == []


@pytest.mark.parametrize(
    ("path", "pattern", "fits"),
    [
        ("a.py", "*.py", True),
        ("x/a.py", "*.py", True),
        ("x/a.py", "x/*.py", True),
        ("x/y/a.py", "x/*.py", False),
        ("x/y/a.py", "x/**/*.py", True),
        ("x/a.py", "x/**/*.py", True),
        ("x/y/a.py", "**/y/**", True),
        ("x/y/a.py", "y/**", False),
        ("x/y/a.py", "x/**", True),
        ("x/a.py", "**", True),
        ("x/a.py", "x", False),
    ],
)
def test_patterns_go_by_folders(path: str, pattern: str, fits: bool) -> None:
    assert path_matches(path, pattern) is fits


def test_a_hostile_pattern_costs_no_more_than_any_other() -> None:
    assert not path_matches("/".join(["a"] * 200), "/".join(["**", "a"] * 100) + "/b")
    assert not path_matches("a" * 5_000, "*a" * 100 + "b")


def test_a_long_listing_says_how_much_it_left_out(workspace: Path) -> None:
    files = FileTools(ToolSettings(workspace=workspace, max_results=2))
    result = files.list_files()
    assert result["files"] == ["README.md", "logo.png"]
    assert result["note"] == "4 more files were left out: narrow the pattern"


def test_a_walk_that_is_too_long_ends_and_says_so(files: FileTools, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workspace_module, "MAX_WALKED", 3)
    assert "too many files" in files.list_files()["note"]


def test_reading_returns_lines_as_editors_count_them(files: FileTools) -> None:
    assert files.read_file("docs/guide.md") == {
        "file": "docs/guide.md",
        "start_line": 1,
        "total_lines": 3,
        "text": "One\ntwo\x0cstill two\nthree",
    }
    assert files.read_file("docs/guide.md", start_line=3)["text"] == "three"
    assert files.read_file("docs/guide.md", start_line=2, max_lines=1)["text"] == "two\x0cstill two"
    assert files.read_file("docs/guide.md", start_line=9)["text"] == ""


def test_reading_cuts_a_long_text_visibly_and_refuses_a_huge_file(workspace: Path) -> None:
    files = FileTools(ToolSettings(workspace=workspace, max_file_bytes=1_000, max_text_chars=10))
    (workspace / "long.txt").write_text("x" * 1_000)
    assert files.read_file("long.txt")["text"] == "x" * 10 + "\n[cut: the first 10 of 1,000 characters]"
    (workspace / "long.txt").write_text("x" * 1_001)
    with pytest.raises(TooLarge, match=r"'long\.txt' has more than 1,000 bytes"):
        files.read_file("long.txt")


@pytest.mark.parametrize(
    "path",
    [
        "../secret.txt",
        "docs/../../secret.txt",
        "/etc/hostname",
        "link.txt",
        "folder/key.txt",
        "deep/folder/key.txt",
        "absolute.txt",
        "..",
        "docs/../..",
    ],
)
def test_no_path_and_no_link_leads_outside(workspace: Path, files: FileTools, path: str) -> None:
    (workspace / "deep").mkdir()
    (workspace / "link.txt").symlink_to("../secret.txt")
    (workspace / "absolute.txt").symlink_to(workspace.parent / "secret.txt")
    (workspace / "folder").symlink_to("../secrets")
    (workspace / "deep/folder").symlink_to("../folder")
    with pytest.raises(InvalidInput, match="leads out of the workspace") as caught:
        files.read_file(path)
    assert caught.value.field == "path"
    with pytest.raises(InvalidInput):
        files.list_files(folder=path)
    assert "link.txt" not in files.list_files("*.txt")["files"]
    assert "secret" not in str(files.list_files()) + str(files.search_files("secret key"))


def test_a_folder_swapped_for_a_link_after_the_check_leads_nowhere(
    workspace: Path, files: FileTools, monkeypatch: pytest.MonkeyPatch
) -> None:
    (workspace / "folder").mkdir()
    (workspace / "folder/key.txt").write_text("mine")
    real = os.path.realpath

    def swap_after(path: Path) -> str:
        resolved = real(path)
        (workspace / "folder").rename(workspace / "moved")
        (workspace / "folder").symlink_to("../secrets")
        return resolved

    monkeypatch.setattr(workspace_module.os.path, "realpath", swap_after)
    with pytest.raises(InvalidInput, match="cannot be read"):
        files.read_file("folder/key.txt")


def test_a_link_that_stays_inside_can_be_read(workspace: Path, files: FileTools) -> None:
    (workspace / "LINK.md").symlink_to("docs/guide.md")
    assert files.read_file("LINK.md")["total_lines"] == 3


LOGINS = [
    ".cargo/credentials.toml",
    ".bash_history",
    ".claude.json",
    ".dockercfg",
    ".s3cfg",
    ".terraformrc",
    "wp-config.php",
    "passwords.txt",
    "application.properties",
]


@pytest.mark.parametrize(
    "path",
    [".git/config", ".mesh/mesh.db", ".env", ".env.local", "docs/../.env", "env", ".GIT/config", *LOGINS],
)
def test_what_is_private_is_never_read(workspace: Path, files: FileTools, path: str) -> None:
    (workspace / "env").symlink_to(".env")
    with pytest.raises(InvalidInput, match="is private"):
        files.read_file(path)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("missing.txt", "No such file"),
        ("docs", "is not a file"),
        ("", "is not a file"),
        ("pipe", "is not a file"),
        ("logo.png", "is not a text file"),
        ("loop", "cannot be read"),
        ("README.md/x", "cannot be read"),
        ("a\0b", "leads out of the workspace"),
        ("x" * 300, "cannot be read"),
    ],
)
def test_what_is_no_readable_file_is_refused_with_the_reason(
    workspace: Path, files: FileTools, path: str, message: str
) -> None:
    os.mkfifo(workspace / "pipe")
    (workspace / "loop").symlink_to("loop")
    with pytest.raises(InvalidInput, match=message):
        files.read_file(path)


def test_a_missing_workspace_is_a_fault_of_the_settings(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the workspace cannot be opened: No such file"):
        FileTools(ToolSettings(workspace=tmp_path / "none")).list_files()


def test_search_puts_the_exact_phrase_first_then_lines_with_most_words(files: FileTools) -> None:
    assert found(files.search_files("Kill -9")) == [
        ("README.md", 1),
        ("src/mesh/core.py", 1),
        ("src/mesh/core.py", 2),
        ("src/mesh/edge.py", 1),
    ]
    assert found(files.search_files("safe kill core signal")) == [
        ("src/mesh/edge.py", 1),
        ("src/mesh/core.py", 1),
        ("src/mesh/core.py", 2),
        ("README.md", 1),
        ("src/mesh/core.py", 3),
    ]
    assert files.search_files("two")["matches"] == [
        {"file": "docs/guide.md", "line": 2, "text": "two\x0cstill two"}
    ]


def test_search_finds_signs_that_are_no_words(files: FileTools) -> None:
    assert found(files.search_files("=9"))[0] == ("src/mesh/core.py", 2)
    assert found(files.search_files("):")) == [("src/mesh/core.py", 2)]


def test_search_keeps_to_pattern_folder_and_number(files: FileTools) -> None:
    assert found(files.search_files("kill", "*.md")) == [("README.md", 1)]
    assert found(files.search_files("kill", folder="src", max_results=1)) == [("src/mesh/core.py", 1)]
    assert files.search_files("nowhere to be found at all")["matches"] == []
    with pytest.raises(InvalidInput, match="blank"):
        files.search_files("  ")


def test_search_says_which_files_were_too_large(workspace: Path) -> None:
    (workspace / "big.txt").write_text("kill -9\n" * 100)
    files = FileTools(ToolSettings(workspace=workspace, max_file_bytes=200))
    result = files.search_files("kill -9")
    assert ("big.txt", 1) not in found(result)
    assert result["note"].startswith("1 more files were left out")


def test_a_file_that_vanishes_during_a_search_is_passed_by(files: FileTools, workspace: Path) -> None:
    listing = files._workspace.walk()
    files._workspace.walk = lambda folder: listing  # type: ignore[method-assign]
    (workspace / "README.md").unlink()
    assert ("src/mesh/core.py", 1) in found(files.search_files("kill"))


async def test_a_model_calls_them_through_their_tools(files: FileTools) -> None:
    listing, reading, searching = collect_tools(files)
    context: Any = None
    assert "README.md" in (await listing.call("{}", context))["files"]
    assert (await reading.call('{"path": "README.md"}', context))["total_lines"] == 1
    assert (await searching.call('{"query": "kill -9"}', context))["matches"][0]["line"] == 1
    for each, arguments in (
        (reading, '{"path": "README.md", "start_line": 0}'),
        (searching, '{"query": ""}'),
    ):
        with pytest.raises(MeshError, match="was not run"):
            await each.call(arguments, context)
