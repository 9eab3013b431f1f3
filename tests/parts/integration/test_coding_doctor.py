"""`mesh doctor` names a coding agent that cannot be used, with the command that installs it."""

from pathlib import Path

import pytest

from tests.support.running_mesh import run

pytestmark = pytest.mark.needs("bwrap")
ADAPTER = """#!/usr/bin/env python3
import json, sys

for line in sys.stdin:
    message, result = json.loads(line), {{"sessionId": "one"}}
    if message["method"] == "initialize":
        info = {{"name": "codex-acp", "version": "{version}"}}
        result = {{"protocolVersion": {protocol}, "agentInfo": info}}
    print(json.dumps({{"jsonrpc": "2.0", "id": message["id"], "result": result}}), flush=True)
"""
HEADLESS = """#!/bin/sh
echo "WARNING: proceeding, even though we could not create PATH aliases" >&2
echo "codex-cli {version}"
"""
ONE_ANSWER = """#!/usr/bin/env python3
import json, os, sys, time

def answer(**fields):
    number = json.loads(sys.stdin.readline())["id"]
    print(json.dumps({"jsonrpc": "2.0", "id": number, **fields}), flush=True)

for _ in range(1_500):
    os.mkdir(os.environ["HOME"] + "/d") if _ == 0 else os.mkdir("d")
    os.chdir(os.environ["HOME"] + "/d") if _ == 0 else os.chdir("d")
answer(result={"protocolVersion": 1, "agentInfo": {"name": "one", "version": "1.0"}})
"""
BEHIND = {
    "GONE": "sys.stdin.readline(); sys.exit('this program moved')",
    "REFUSES": "answer(error={'code': -32000, 'message': 'sign in first'}); time.sleep(600)",
}
"""The end of programs that answer the first request."""
INSTALL = "npm install -g @zed-industries/codex-acp@"


def adapter(folder: Path, version: str, protocol: int = 1) -> str:
    """The path of an adapter for Codex of a version."""
    folder.mkdir()
    program = folder / "codex-acp"
    program.write_text(ADAPTER.format(version=version, protocol=protocol))
    program.chmod(0o755)
    return str(program)


def test_a_headless_program_is_named_by_its_version_after_its_warnings(tmp_path: Path) -> None:
    setup = dict[str, str]()
    for name, version in {"OLD": "0.9.1", "GOOD": "0.171.0"}.items():
        program = tmp_path / name / "codex"
        program.parent.mkdir()
        program.write_text(HEADLESS.format(version=version))
        program.chmod(0o755)
        table = {"PROGRAM": "codex", "PROTOCOL": "headless", "COMMAND": str(program)}
        setup |= {f"MESH_CODING__{name}__{field}": value for field, value in table.items()}
    done = run("doctor", cwd=tmp_path, **setup)
    lines = {line.split()[1]: line for line in done.stdout.splitlines() if " coding." in line}
    assert lines["coding.good"] == "ok    coding.good  codex-cli 0.171.0", done.stdout
    assert "is too old: codex-cli 0.9.1, and 0.160 is needed" in lines["coding.old"]


def test_programs_that_are_missing_or_old_or_speak_another_version_are_named(tmp_path: Path) -> None:
    commands = {
        "ABSENT": "/nowhere/codex-acp",
        "OLD": adapter(tmp_path / "old", "0.9.1"),
        "OTHER": adapter(tmp_path / "other", "0.16.0", protocol=7),
        "GOOD": adapter(tmp_path / "good", "0.16.0"),
    }
    setup = {f"MESH_CODING__{name}__COMMAND": command for name, command in commands.items()}
    setup |= {f"MESH_CODING__{name}__PROGRAM": "codex" for name in commands}
    done = run("doctor", cwd=tmp_path, **setup)
    lines = {line.split()[1]: line for line in done.stdout.splitlines() if " coding." in line}
    assert lines["coding.good"].startswith("ok"), done.stdout
    assert "codex-acp 0.16.0, begins again after a stop" in lines["coding.good"]
    problems = {
        "absent": "needs /nowhere/codex-acp, which is not installed",
        "old": "is too old: codex-acp 0.9.1, begins again after a stop, and 0.16 is needed",
        "other": "speaks version 7 of the Agent Client Protocol, not 1",
    }
    for name, problem in problems.items():
        line = lines[f"coding.{name}"]
        assert line.startswith("FAIL") and problem in line and INSTALL in line


def test_a_program_is_asked_for_a_session_too(tmp_path: Path) -> None:
    setup = {"MESH_CODING__NONE__PROGRAM": "acp", "MESH_CODING__NONE__COMMAND": "/bin/false"}
    for name, code in BEHIND.items():
        program = tmp_path / name / "program"
        program.parent.mkdir()
        program.write_text(f"{ONE_ANSWER}{code}\n")
        program.chmod(0o755)
        setup |= {f"MESH_CODING__{name}__PROGRAM": "acp", f"MESH_CODING__{name}__COMMAND": str(program)}
    done = run("doctor", cwd=tmp_path, **setup)
    lines = {line.split()[1]: line for line in done.stdout.splitlines() if " coding." in line}
    assert lines["coding.gone"].startswith("FAIL"), done.stdout + done.stderr
    assert "ended by status 1: this program moved" in lines["coding.gone"]
    assert "ended by status 1" in lines["coding.none"]
    assert lines["coding.refuses"].startswith("ok")
    assert "refused session/new: sign in first" in lines["coding.refuses"]
