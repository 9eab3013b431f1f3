"""Files in which clients, models and tools of a run record what they saw, apart from the mesh."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


class RecordFile:
    """A file of JSON lines that survives a kill: each line is handed to the kernel at once."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, line: Any, *, durable: bool = False) -> None:
        """Add a line; `durable` survives a power cut too."""
        file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        try:
            os.write(file, json.dumps(line).encode() + b"\n")
            if durable:
                os.fsync(file)
        finally:
            os.close(file)

    def count(self) -> int:
        """Return the number of lines."""
        return self.path.read_bytes().count(b"\n") if self.path.exists() else 0

    def read(self) -> list[Any]:
        """Return all whole lines: a kill may have cut the last one short."""
        if not self.path.exists():
            return []
        *whole, _ = self.path.read_bytes().split(b"\n")
        return [json.loads(line) for line in whole]


class Records:
    """The records of one folder, which clients, models and tools write."""

    def __init__(self, folder: Path) -> None:
        self._pace = folder / "allowed"
        self.accepted = RecordFile(folder / "accepted.jsonl")
        """[key, task id] of each submit that returned, by the client."""
        self.cancelled = RecordFile(folder / "cancelled.jsonl")
        """Task id of each cancel that returned, by the client."""
        self.outcomes = RecordFile(folder / "outcomes.jsonl")
        """[task id, status, text] of each outcome that the client got."""
        self.calls = RecordFile(folder / "calls.jsonl")
        """[task id, attempt, step] of each call of the model."""
        self.effects = RecordFile(folder / "effects.jsonl")
        """[text, tool] of each effect that a tool had."""
        self.charges = RecordFile(folder / "charges.jsonl")
        """[text, process] of each charge that began."""
        self.paid = RecordFile(folder / "paid.jsonl")
        """[ticket, dollars] of each real call that was to be made, with the most that it may cost."""
        self.paid_replies = RecordFile(folder / "paid_replies.jsonl")
        """[failure, or null] of each real call that ended."""
        self.stalls = RecordFile(folder / "stalls.jsonl")
        """[process, time] of each worker that hung for a while by itself, and when that began."""
        self.swaps = RecordFile(folder / "swaps.jsonl")
        """[task id, results, other results] of each run that went on with others than it had before."""
        self.misplaced = RecordFile(folder / "misplaced.jsonl")
        """[task id] of each answer to another question that was taken, by the person who gave it."""

    def allow(self, count: int) -> None:
        """Let a paced client begin the first `count` tasks of its plan."""
        draft = self._pace.with_suffix(".draft")
        draft.write_text(str(count))
        draft.rename(self._pace)

    def allowed(self) -> int:
        """Return how many tasks a paced client may have begun."""
        return int(self._pace.read_text()) if self._pace.exists() else 0
