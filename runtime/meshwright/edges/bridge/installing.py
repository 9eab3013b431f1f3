"""Writes the hook into the settings of Claude Code, and takes it out again."""

from __future__ import annotations

import json
import os
import shlex
import sys
from pathlib import Path
from typing import Any

from meshwright.core.errors import ConfigError
from meshwright.edges.bridge import hook
from meshwright.edges.bridge.sender import SETTINGS, BridgeSettings
from meshwright.engine.sql.folder import write_private

_EVENTS = (
    "SessionStart",
    "UserPromptSubmit",
    "PreToolUse",
    "PostToolUse",
    "Notification",
    "PreCompact",
    "SubagentStop",
    "Stop",
    "SessionEnd",
)
"""The hook events that are reported."""
_TIMEOUT_SECONDS = 5
_REMEDY = "Correct the file, then try again"


def default_folder() -> Path:
    """The folder of stored events: one for each user of the machine."""
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "meshwright" / "claude"


def install(file: Path, folder: Path, settings: BridgeSettings) -> None:
    """Write the hook for each event into a settings file, whose other content stays; and where events go.

    Raises ConfigError where the file is none of Claude Code's.
    """
    content = _read(file)
    _remove(content, file)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_private(folder / SETTINGS, json.dumps(settings._asdict(), indent=2) + "\n")
    command = shlex.join([sys.executable, "-I", "-S", str(Path(hook.__file__).resolve()), str(folder)])
    entry = {"matcher": "*", "hooks": [{"type": "command", "command": command, "timeout": _TIMEOUT_SECONDS}]}
    hooks = content.setdefault("hooks", {})
    for event in _EVENTS:
        hooks.setdefault(event, []).append(entry)
    _write(file, content)


def uninstall(file: Path) -> bool:
    """Take the hook out of a settings file; returns whether it was there. Raises ConfigError."""
    content = _read(file)
    was_there = _remove(content, file)
    if was_there:
        _write(file, content)
    return was_there


def is_installed(file: Path) -> bool:
    """Whether a settings file has the hook. Raises ConfigError."""
    return _remove(_read(file), file)


def _read(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(
            f"{file} cannot be read: {error}", remedy="Correct the file, then try again"
        ) from None
    if not isinstance(content, dict):
        raise ConfigError(f"{file} holds no object", remedy=_REMEDY)
    return content


def _remove(content: dict[str, Any], file: Path) -> bool:
    """Take our commands out of a file's content, and what is empty then."""
    hooks = content.get("hooks", {})
    if not isinstance(hooks, dict) or not all(isinstance(entries, list) for entries in hooks.values()):
        raise ConfigError(f"hooks in {file} is no object of lists", remedy=_REMEDY)
    is_changed = False
    for event, entries in list(hooks.items()):
        for entry in entries:
            commands = entry.get("hooks", []) if isinstance(entry, dict) else []
            others = [command for command in commands if not _is_ours(command)]
            if len(others) < len(commands):
                entry["hooks"], is_changed = others, True
        hooks[event] = [entry for entry in entries if not isinstance(entry, dict) or entry.get("hooks") != []]
        if not hooks[event]:
            del hooks[event]
    if is_changed and not hooks:
        del content["hooks"]
    return is_changed


_PLACES = (("meshwright", "edges", "bridge", "hook.py"), ("meshwright", "bridge", "hook.py"))
"""The path of our hook today, and its earlier one."""


def _is_ours(command: Any) -> bool:
    text = command.get("command") if isinstance(command, dict) else None
    return isinstance(text, str) and any(_ends(text, place) for place in _PLACES)


def _ends(command: str, parts: tuple[str, ...]) -> bool:
    try:
        words = shlex.split(command)
    except ValueError:
        return False
    return any(Path(word).parts[-len(parts) :] == parts for word in words)


def _write(file: Path, content: dict[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    new = file.with_name(f".{file.name}.new")
    new.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    if file.exists():
        new.chmod(file.stat().st_mode & 0o777)
    new.replace(file.resolve())
