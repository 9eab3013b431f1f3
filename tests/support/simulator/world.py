"""The world that the tools of a scenario act on: a SQLite file, so that kills of the mesh leave it as it was.

It counts every execution, so that a step that was done twice shows.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

_SCHEMA = """
CREATE TABLE IF NOT EXISTS executions (
    n INTEGER PRIMARY KEY, item TEXT, tool TEXT, arguments TEXT
);
CREATE TABLE IF NOT EXISTS edits (item TEXT, path TEXT, PRIMARY KEY (item, path));
"""


class World:
    """The projects, services and facts of the work items; `steps` is how many steps each item takes."""

    def __init__(self, path: Path, steps: int) -> None:
        self._steps = steps
        self._fixes = max(1, steps // 2)
        self._database = sqlite3.connect(path, isolation_level=None, timeout=30, check_same_thread=False)
        self._database.executescript(f"PRAGMA journal_mode = WAL; {_SCHEMA}")
        self.tools: dict[str, Callable[..., str]] = {
            "edit_file": self.edit_file,
            "run_tests": self.run_tests,
            "check_health": self.check_health,
            "search": self.search,
        }

    def close(self) -> None:
        self._database.close()

    def edit_file(self, project: str, path: str, text: str) -> str:
        """Replace a file of a project."""
        self._executed(project, "edit_file", {"path": path, "text": text})
        self._database.execute("INSERT OR IGNORE INTO edits VALUES (?, ?)", (project, path))
        return f"{path}: {len(text)} characters written"

    def run_tests(self, project: str) -> str:
        """Run the tests of a project: one fails for each file that was not fixed yet."""
        self._executed(project, "run_tests", {})
        total = self._fixes
        fixed = self._database.execute("SELECT count(*) FROM edits WHERE item = ?", (project,)).fetchone()[0]
        if fixed >= total:
            return f"all {total} tests pass"
        return f"{total - fixed} failing, first test_{fixed + 1}\n" + "E   assert False\n" * 20

    def check_health(self, service: str) -> str:
        """Look at a service: it comes up after as many looks as the item takes steps."""
        looks = self._executed(service, "check_health", {})
        return f"healthy since look {self._steps}" if looks >= self._steps else "starting"

    def search(self, query: str) -> str:
        """Search for a fact."""
        self._executed(query.split()[0], "search", {"query": query})
        return f"fact {hashlib.sha256(query.encode()).hexdigest()[:8]}"

    def expected(self, persona: str, item: str) -> str:
        """The one right answer."""
        if persona == "fixer":
            return f"Done: all {self._fixes} tests of {item} pass."
        if persona == "poller":
            return f"Done: {item} is healthy since look {self._steps}."
        facts = [hashlib.sha256(f"{item} question {n}".encode()).hexdigest()[:8] for n in range(1, 6)]
        return f"Done: {item} is {', '.join(facts)}."

    def executions(self, item: str) -> int:
        """How often tools were executed for an item."""
        where = "SELECT count(*) FROM executions WHERE item = ?"
        return self._database.execute(where, (item,)).fetchone()[0]

    def needed(self, persona: str) -> int:
        """How many executions an item takes where none is repeated."""
        return {"fixer": 2 * self._fixes + 1, "poller": self._steps, "researcher": 5}[persona]

    def _executed(self, item: str, tool: str, arguments: dict[str, Any]) -> int:
        row = (item, tool, json.dumps(arguments))
        self._database.execute("INSERT INTO executions (item, tool, arguments) VALUES (?, ?, ?)", row)
        where = "SELECT count(*) FROM executions WHERE item = ? AND tool = ?"
        return self._database.execute(where, (item, tool)).fetchone()[0]
