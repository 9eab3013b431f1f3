"""The hook of Claude Code: stores the event on its stdin, and has it published. A program of its own.

    python -I -S hook.py FOLDER < event.json

It starts without any package, and a process that it leaves behind does the work, so Claude Code waits for it
some milliseconds only. It never fails and never prints: without a broker the event is in the SQLite file, and
if that cannot be written it is lost.
"""

import os
import select
import sys
import time
from datetime import UTC

_READ_SECONDS = 0.02  # that Claude Code waits for a writer that is slow; the rest is read after that
_REST_SECONDS = 5.0
_MAX_BYTES = 4 * 1024 * 1024
_MAX_CHARS = 1_000  # of a text of the event that is kept
_MAX_ITEMS = 40
_TAIL_BYTES = 64 * 1024  # of the transcript, in which the model is looked for
_BUSY_SECONDS = 60.0  # that another process may lock the file
LOCK = "sender.lock"
"""Locked by the process that publishes; it has its process id."""
_STATUS = {
    "SessionStart": "started",
    "Notification": "waiting",
    "PermissionRequest": "waiting",
    "PostToolUseFailure": "failed",
    "StopFailure": "failed",
    "Stop": "completed",
    "SubagentStop": "running",
    "SessionEnd": "ended",
}
"""How the job is doing after an event; after any other it is running."""
_KNOWN = ("session_id", "hook_event_name", "cwd", "transcript_path", "model")
TABLE = """
    CREATE TABLE IF NOT EXISTS claude_events (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        time REAL NOT NULL,              -- unix seconds
        job_id TEXT NOT NULL,
        event TEXT NOT NULL,
        document TEXT NOT NULL,          -- JSON
        published_at REAL
    )
"""
UNPUBLISHED = (
    "CREATE INDEX IF NOT EXISTS claude_events_unpublished ON claude_events (time) WHERE published_at IS NULL"
)


def main(folder: str) -> None:
    """Read what there is of the event, and let a process of its own do the rest."""
    now = time.time()
    data, is_whole = _read(_READ_SECONDS)
    if os.fork():
        return
    os.setsid()
    if not is_whole:
        data += _read(_REST_SECONDS)[0]
    nothing = os.open(os.devnull, os.O_RDWR)
    for standard in range(3):  # else Claude Code waits for their end
        os.dup2(nothing, standard)
    _store(folder, data, now)
    if _is_publishing(folder):
        return
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
    os.execve(
        sys.executable,
        [sys.executable, "-m", "meshwright.edges.bridge.sender", folder],
        {**_environment(folder), "PYTHONPATH": root},
    )


def _environment(folder: str) -> dict[str, str]:
    """The variables that the sender reads: those of Claude Code hold keys, and it may live for a day."""
    import json
    from contextlib import suppress

    names = ["HOME", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "PATH", "TMPDIR", "TZ"]
    names += ["CREDENTIALS_DIRECTORY", "DAPR_API_TOKEN", "DAPR_HTTP_PORT"]  # the password may lie there
    with suppress(OSError, ValueError, AttributeError), open(os.path.join(folder, "bridge.json")) as file:
        kind, _, name = str(json.load(file).get("password")).partition(":")
        if kind == "env":
            names.append(name)
    return {name: os.environ[name] for name in names if name in os.environ}


def _read(seconds: float) -> tuple[bytes, bool]:
    """Reads stdin for some time; returns the text and whether that is all."""
    data, ends = b"", time.monotonic() + seconds
    while len(data) < _MAX_BYTES:
        remaining = ends - time.monotonic()
        if remaining <= 0 or not select.select([0], [], [], remaining)[0]:
            return data, False
        piece = os.read(0, 65536)
        if not piece:
            return data, True
        data += piece
    return data, True


def _store(folder: str, data: bytes, now: float) -> None:
    import json
    import sqlite3
    import uuid

    try:
        event = json.loads(data)
    except (ValueError, RecursionError):  # no JSON, or nested without end
        event = None
    unreadable: dict[str, object] = {"hook_event_name": "Unreadable", "text": data.decode(errors="replace")}
    document = _document(event if isinstance(event, dict) else unreadable, now)
    document["id"] = uuid.uuid4().hex
    os.umask(0o077)
    os.makedirs(folder, exist_ok=True)
    connection = sqlite3.connect(os.path.join(folder, "events.db"), timeout=_BUSY_SECONDS)
    with connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(TABLE)
        connection.execute(UNPUBLISHED)
        connection.execute(
            "INSERT INTO claude_events (id, time, job_id, event, document) VALUES (?, ?, ?, ?, ?)",
            (document["id"], now, document["job_id"], document["event"], json.dumps(document)),
        )
    connection.close()


def _is_publishing(folder: str) -> bool:
    """Whether a process publishes already: it looks for events again after it has let go of the lock."""
    import fcntl

    lock = os.open(os.path.join(folder, LOCK), os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    os.close(lock)
    return False


def _document(fields: dict[str, object], now: float) -> dict[str, object]:
    """The event with what surrounds it: branch, worktree, model, job and how that is doing."""
    from datetime import datetime

    cwd = _text(fields.get("cwd")) or os.getcwd()
    event = _text(fields.get("hook_event_name")) or "Unknown"
    session = _text(fields.get("session_id"))
    job = _text(os.environ.get("CLAUDE_JOB_ID") or os.environ.get("JOB_ID"))
    return {
        "time": datetime.fromtimestamp(now, UTC).isoformat(),
        "event": event,
        "status": _STATUS.get(event, "running"),
        "job_id": job or session or "unknown",
        "session_id": session,
        "model": _model(fields),
        "cwd": cwd,
        **_git(cwd),
        "details": _kept({name: value for name, value in fields.items() if name not in _KNOWN}),
    }


def _text(value: object) -> str:
    text = value[:_MAX_CHARS] if isinstance(value, str) else ""
    return text.encode(errors="replace").decode()  # half of a pair, as JSON may have it, cannot be stored


def _kept(details: dict[str, object]) -> object:
    """The other fields of the event, without secrets, each text cut."""
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
    sys.path.insert(0, root)
    from meshwright.core.redaction import redact_data

    return redact_data(_cut(details))


def _cut(value: object, depth: int = 6) -> object:
    if isinstance(value, str):
        return value if len(value) <= _MAX_CHARS else value[:_MAX_CHARS] + "…"
    if isinstance(value, dict) and depth:
        return {str(name)[:_MAX_CHARS]: _cut(item, depth - 1) for name, item in [*value.items()][:_MAX_ITEMS]}
    if isinstance(value, list) and depth:
        return [_cut(item, depth - 1) for item in value[:_MAX_ITEMS]]
    return None if isinstance(value, (dict, list)) else value


def _git(cwd: str) -> dict[str, str]:
    """Repository, branch (or commit) and worktree of a folder, read from their files: git is not run."""
    facts = {"repository": "", "branch": "", "worktree": ""}
    folder = cwd
    while not os.path.lexists(os.path.join(folder, ".git")):
        above = os.path.dirname(folder)
        if above == folder:
            return facts
        folder = above
    git = os.path.join(folder, ".git")
    try:
        if os.path.isfile(git):
            git = os.path.join(folder, _read_head(git).partition("gitdir:")[2].strip())
        head = _read_head(os.path.join(git, "HEAD"))
    except (OSError, ValueError):  # ValueError for a path that can be none
        return facts
    facts["worktree"] = folder
    facts["branch"] = head.partition("refs/heads/")[2] or head[:12]
    main, is_linked, _ = os.path.normpath(git).rpartition("/.git/worktrees/")
    facts["repository"] = os.path.basename(main if is_linked else folder)
    return facts


def _read_head(path: str) -> str:
    """The beginning of a file. Raises OSError, also for a pipe or a device, and ValueError."""
    if not os.path.isfile(path):
        raise OSError(path)
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read(4096).strip()


def _model(fields: dict[str, object]) -> str:
    """The model: as the event says, else as the end of the transcript does, else by the environment."""
    model = fields.get("model")
    if isinstance(model, dict):
        model = model.get("id")
    if not model:
        try:
            path = str(fields.get("transcript_path"))
            if os.path.isfile(path):  # no pipe or device, which might not end
                with open(path, "rb") as file:
                    file.seek(max(0, os.path.getsize(path) - _TAIL_BYTES))
                    tail = file.read(_TAIL_BYTES).decode(errors="replace")
                model = tail.rpartition('"model":')[2].partition('"')[2].partition('"')[0]
        except (OSError, ValueError):
            model = ""
    return _text(model) or os.environ.get("ANTHROPIC_MODEL", "")


if __name__ == "__main__":
    try:  # noqa: SIM105 contextlib would cost a millisecond
        main(sys.argv[1])
    except BaseException:  # noqa: BLE001 a hook must never fail or print; contextlib costs a millisecond
        pass
    os._exit(0)
