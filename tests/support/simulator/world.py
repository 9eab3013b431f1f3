"""The world that the tools of a scenario act on: a SQLite file, so that kills leave it as it was.

It counts every execution, so that a step that was done twice shows. It needs the standard library alone:
programs in other environments use it too.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from pathlib import Path
from typing import Any

QUERIES = 5
LOOKS = 10
"""How often a releaser has to look until what it has deployed is healthy."""
_SCHEMA = """
CREATE TABLE IF NOT EXISTS executions (
    n INTEGER PRIMARY KEY, item TEXT, tool TEXT, arguments TEXT
);
CREATE TABLE IF NOT EXISTS edits (item TEXT, path TEXT, PRIMARY KEY (item, path));
"""


class World:
    """The projects, services and facts of the work items.

    `steps` is how many steps each item takes, which are not the same for each persona.
    """

    def __init__(self, path: Path | str, persona: str, steps: int) -> None:
        self._persona = persona
        self._steps = steps
        apart = QUERIES + LOOKS if persona == "releaser" else 0
        self._fixes = max(1, (steps - apart) // 2)
        self._looks = LOOKS if persona == "releaser" else steps
        self._database = sqlite3.connect(path, isolation_level=None, timeout=30, check_same_thread=False)
        self._database.executescript(f"PRAGMA journal_mode = WAL; PRAGMA synchronous = OFF; {_SCHEMA}")

    def close(self) -> None:
        """Close the file."""
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
        """Look at a service: it comes up after as many looks as the item takes."""
        looks = self._executed(service, "check_health", {})
        return f"healthy since look {self._looks}" if looks >= self._looks else "starting"

    def search(self, query: str) -> str:
        """Search for a fact."""
        self._executed(query.split()[0], "search", {"query": query})
        return f"fact {_fact(query)}"

    def expected(self, item: str) -> str:
        """The one right answer."""
        match self._persona:
            case "fixer":
                return f"Done: all {self._fixes} tests of {item} pass."
            case "poller":
                return f"Done: {item} is healthy since look {self._looks}."
            case "releaser":
                return f"Done: all {self._fixes} tests of {item} pass, healthy since look {self._looks}."
            case "painter":
                return f"Done: {item} is painted."
            case _:
                facts = [_fact(f"{item} question {number}") for number in range(1, QUERIES + 1)]
                return f"Done: {item} is {', '.join(facts)}."

    def executions(self, item: str) -> int:
        """How often tools were executed for an item."""
        where = "SELECT count(*) FROM executions WHERE item = ?"
        return self._database.execute(where, (item,)).fetchone()[0]

    @property
    def needed(self) -> int:
        """How many executions an item takes where none is repeated."""
        tests = 2 * self._fixes + 1
        return {
            "fixer": tests,
            "poller": self._looks,
            "researcher": QUERIES,
            "releaser": QUERIES + tests + self._looks,
            "painter": 0,
        }[self._persona]

    def _executed(self, item: str, tool: str, arguments: dict[str, Any]) -> int:
        row = (item, tool, json.dumps(arguments))
        self._database.execute("INSERT INTO executions (item, tool, arguments) VALUES (?, ?, ?)", row)
        where = "SELECT count(*) FROM executions WHERE item = ? AND tool = ?"
        return self._database.execute(where, (item, tool)).fetchone()[0]


def _fact(query: str) -> str:
    return hashlib.sha256(query.encode()).hexdigest()[:8]
