"""The hook of Claude Code: what it stores, what the broker gets, and that it does not disturb Claude Code."""

import asyncio
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from meshwright.cli.app import mesh as cli
from meshwright.edges.bridge import hook, sender
from tests.support.mqtt_broker import client, mosquitto

pytestmark = pytest.mark.needs("mosquitto")

SESSION = {"session_id": "5d1c", "hook_event_name": "PreToolUse", "tool_name": "Bash"}


def run_hook(folder: Path, given: bytes, cwd: Path, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """Run the hook as Claude Code does: the event on stdin, until the program has closed its output."""
    command = [sys.executable, "-I", "-S", hook.__file__, str(folder)]
    return subprocess.run(
        command, input=given, capture_output=True, cwd=cwd, env={**os.environ, **environment}, check=False
    )


def event_of(cwd: Path, **fields: Any) -> bytes:
    return json.dumps({**SESSION, "cwd": str(cwd), **fields}).encode()


async def stored(folder: Path, count: int, where: str = "1") -> list[dict[str, Any]]:
    """The documents of a folder, once there are so many."""
    while True:
        rows: list[tuple[str]] = []
        if (folder / sender.STORE).exists():
            connection = sqlite3.connect(folder / sender.STORE)
            try:
                query = f"SELECT document FROM claude_events WHERE {where} ORDER BY seq"
                rows = connection.execute(query).fetchall()
            except sqlite3.OperationalError:  # it is being made
                rows = []
            connection.close()
        if len(rows) >= count:
            return [json.loads(document) for (document,) in rows]
        await asyncio.sleep(0.02)


def sender_of(folder: Path) -> int:
    """The process that tries to reach a broker."""
    while not (pid := (folder / sender.LOCK).read_text() if (folder / sender.LOCK).exists() else ""):
        time.sleep(0.02)
    return int(pid)


def end_sender(folder: Path) -> None:
    """End the process that tries to reach a broker, where none answers."""
    pid = sender_of(folder)
    os.kill(pid, signal.SIGKILL)
    while Path(f"/proc/{pid}/exe").is_file():
        time.sleep(0.02)


def repository(folder: Path) -> Path:
    """A repository with a worktree, which is on the branch `fix-7`."""
    main, tree = folder / "shop", folder / "shop-fix"
    run = ["git", "-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "init.defaultBranch=main"]
    subprocess.run([*run, "init", "-q", str(main)], check=True)
    subprocess.run([*run, "-C", str(main), "commit", "-q", "--allow-empty", "-m", "x"], check=True)
    subprocess.run([*run, "-C", str(main), "worktree", "add", "-q", "-b", "fix-7", str(tree)], check=True)
    return tree


async def test_the_hook_stores_an_event_with_branch_worktree_model_and_job(tmp_path: Path) -> None:
    tree, folder = repository(tmp_path), tmp_path / "state"
    transcript = tmp_path / "transcript.jsonl"
    transcript.write_text('{"message": {"model": "claude-old"}}\n{"message": {"model": "claude-opus-4-8"}}\n')
    (tree / "src").mkdir()
    key = "sk-ant-api03-abcdefghij0123456789"
    given = event_of(
        tree / "src",
        transcript_path=str(transcript),
        tool_input={"command": f"deploy --key {key}", "text": "x" * 5_000},
    )
    done = run_hook(folder, given, tmp_path, CLAUDE_JOB_ID="job-7")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    [event] = await stored(folder, 1)
    assert (event["event"], event["status"], event["job_id"]) == ("PreToolUse", "running", "job-7")
    assert (event["branch"], event["repository"], event["model"]) == ("fix-7", "shop", "claude-opus-4-8")
    assert event["worktree"] == str(tree)
    assert event["details"]["tool_name"] == "Bash"
    assert key not in json.dumps(event)
    assert len(event["details"]["tool_input"]["text"]) < 1_100
    assert (folder / sender.STORE).stat().st_mode & 0o77 == 0


def test_the_sender_has_the_password_of_the_broker_and_no_other_key(tmp_path: Path) -> None:
    (tmp_path / "bridge.json").write_text('{"url": "mqtt://127.0.0.1:1", "password": "env:OF_BROKER"}')
    run_hook(tmp_path, event_of(tmp_path), tmp_path, OF_BROKER="of-the-broker", ANTHROPIC_API_KEY="planted")
    environment = Path(f"/proc/{sender_of(tmp_path)}/environ").read_bytes()
    end_sender(tmp_path)
    assert b"of-the-broker" in environment and b"planted" not in environment


@pytest.mark.parametrize(
    "given",
    [
        *(b"", b"no JSON", b"[1, 2]", b'{"session_id": 7, "cwd": "/nowhere"}', b"\xff\xfe"),
        *(b'{"cwd": "\\u0000"}', b"[" * 100_000, b'{"session_id": "\\ud800"}'),
        *(b'{"transcript_path": "\\u0000"}', b'{"transcript_path": "/dev/zero"}'),
        b'{"transcript_path": "pipe"}',
    ],
    ids=range(11),
)
async def test_whatever_the_hook_gets_it_succeeds_and_says_nothing(tmp_path: Path, given: bytes) -> None:
    os.mkfifo(tmp_path / "pipe")
    done = run_hook(tmp_path / "state", given, tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert len(await stored(tmp_path / "state", 1)) == 1


def test_a_hook_whose_folder_cannot_be_written_succeeds_and_says_nothing(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("in the way")
    done = run_hook(tmp_path / "state", event_of(tmp_path), tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


async def test_a_broker_that_never_answers_holds_up_no_hook(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    folder.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        (folder / sender.SETTINGS).write_text(
            json.dumps({"url": f"mqtt://127.0.0.1:{silent.getsockname()[1]}"})
        )
        for _ in range(3):
            assert run_hook(folder, event_of(tmp_path), tmp_path).returncode == 0
        assert len(await stored(folder, 3)) == 3
        connection, _ = await asyncio.to_thread(silent.accept)  # the sender, which waits for an answer
        connection.close()
    (folder / sender.SETTINGS).unlink()  # a sender that starts only now ends by itself
    end_sender(folder)


async def test_events_of_a_time_without_a_broker_are_published_in_order_when_it_is_back(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "state"
    folder.mkdir()
    async with mosquitto(tmp_path / "broker") as broker:
        (folder / sender.SETTINGS).write_text(json.dumps({"url": broker.url}))
        await broker.stop()
        for name in ("SessionStart", "PreToolUse", "Stop"):
            run_hook(folder, event_of(tmp_path, hook_event_name=name, session_id="a/+#\n\ud800b"), tmp_path)
            await stored(folder, 1, f"event = '{name}'")
        with closing(sqlite3.connect(folder / sender.STORE)) as store, store:  # the last was stored first
            store.execute("UPDATE claude_events SET seq = -seq WHERE event = 'Stop'")
        while not (begun := (folder / sender.LOCK).read_text()):  # the process that is to publish
            await asyncio.sleep(0.02)
        os.kill(int(begun), signal.SIGSTOP)  # until somebody reads
        await broker.start()
        async with client(broker, "claude/#") as reader:
            os.kill(int(begun), signal.SIGCONT)
            assert await asyncio.to_thread(sender.hurry, folder, 60.0) == 0
            topics = [(await reader.message()).topic for _ in range(3)]
        await stored(folder, 3, "published_at IS NOT NULL")
    assert topics == [f"claude/progress/a____?b/{name}" for name in ("SessionStart", "PreToolUse", "Stop")]


def test_install_keeps_what_the_settings_file_has_and_can_be_undone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    file = tmp_path / ".claude" / "settings.json"
    file.parent.mkdir()
    other = {"model": "opus", "hooks": {"Stop": [{"hooks": [{"type": "command", "command": "say done"}]}]}}
    file.write_text(json.dumps(other))
    for _ in range(2):  # again changes nothing
        found = CliRunner().invoke(cli, ["bridge", "install", "--mqtt", "mqtt://127.0.0.1:1"])
        assert found.exit_code == 0, found.output
    content = json.loads(file.read_text())
    assert content["model"] == "opus"
    assert [len(entries) for entries in content["hooks"].values()] == [2, *[1] * 8]
    command = content["hooks"]["PreToolUse"][0]["hooks"][0]["command"]
    given = json.dumps({**SESSION, "cwd": str(tmp_path)})
    subprocess.run(["/bin/sh", "-c", command], input=given, text=True, check=True)
    asyncio.run(stored(tmp_path / "state" / "meshwright" / "claude", 1))
    assert "1 of them not published" in CliRunner().invoke(cli, ["bridge", "status"]).output
    end_sender(tmp_path / "state" / "meshwright" / "claude")
    assert "Connection refused" in CliRunner().invoke(cli, ["bridge", "flush"]).output
    assert CliRunner().invoke(cli, ["bridge", "uninstall"]).exit_code == 0
    assert json.loads(file.read_text()) == other


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("http://broker", "no URL like mqtt://"),
        ("mqtt://", "no URL like mqtt://"),
        ("mqtt://broker:99999", "no URL like mqtt://"),
        ("mqtt://ada:secret@broker", "name them by --username and --password"),
    ],
)
def test_install_refuses_what_is_no_broker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str, problem: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    found = CliRunner().invoke(cli, ["bridge", "install", "--mqtt", url])
    assert found.exit_code != 0 and problem in found.output
    assert "secret" not in found.output and not (tmp_path / ".claude").exists()


@pytest.mark.parametrize("command", ["status", "events", "flush"])
def test_a_damaged_file_of_events_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert CliRunner().invoke(cli, ["bridge", "install", "--mqtt", "mqtt://127.0.0.1:1"]).exit_code == 0
    file = tmp_path / "state" / "meshwright" / "claude" / sender.STORE
    file.write_text("no database, " * 100)
    found = CliRunner().invoke(cli, ["bridge", command])
    assert f"{file} cannot be used: file is not a database" in str(found.exception or found.output)


def test_a_settings_file_that_is_broken_is_left_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    file = tmp_path / ".claude" / "settings.json"
    file.parent.mkdir()
    file.write_text("{,}")
    found = CliRunner().invoke(cli, ["bridge", "install"])
    assert found.exit_code != 0
    assert "settings.json cannot be read" in str(found.exception or found.output)
    assert file.read_text() == "{,}"
