"""The shipped tools that change something, beside the page that says which of them have a check."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path

from meshwright import toolsets
from meshwright.agents.tools.tool import MARK, Declaration

PAGE = Path(__file__).parents[3] / "docs" / "toolsets.md"


def shipped_tools() -> Iterator[Declaration]:
    for info in pkgutil.iter_modules(toolsets.__path__, f"{toolsets.__name__}."):
        for value in vars(importlib.import_module(info.name)).values():
            if inspect.isclass(value) and value.__module__ == info.name:
                marks = (getattr(function, MARK, None) for function in vars(value).values())
                yield from (mark for mark in marks if isinstance(mark, Declaration))


def documented_checks() -> dict[str, bool]:
    section = PAGE.read_text().split("\n## After a crash\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (`.*?) \| (.*) \|$", section, re.MULTILINE)
    return {
        name: not check.startswith("none") for names, check in rows for name in re.findall("`(.*?)`", names)
    }


def test_each_shipped_change_stands_in_the_docs_with_its_check() -> None:
    changes = [tool for tool in shipped_tools() if tool.effect == "change" and not tool.contained]
    assert {tool.name: bool(tool.check) for tool in changes} == documented_checks()


def test_no_shipped_change_asks_a_person_after_a_crash() -> None:
    assert [tool.name for tool in shipped_tools() if not tool.idempotent] == []
