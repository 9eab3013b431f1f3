"""Docstrings put the noun first, no function is named by `of`, each class has a name of its own."""

import ast
import re
from collections import Counter
from functools import cache
from pathlib import Path

import meshwright

PACKAGE = Path(meshwright.__file__).parent
FOREIGN = re.compile(r"(?:^|[.!?]\s+|\n\s*\n\s*)(?:What|Whose|Who|Where|Whoever)\b")
OF = re.compile(r"^_*of(_|$)|_of$")


@cache
def statements() -> list[tuple[Path, ast.stmt]]:
    """All statements of the package, with their files."""
    found = list[tuple[Path, ast.stmt]]()
    for path in sorted(PACKAGE.rglob("*.py")):
        waiting: list[ast.AST] = [ast.parse(path.read_bytes())]
        while waiting:
            node = waiting.pop()
            for name in ("body", "handlers", "orelse", "finalbody", "cases"):
                waiting += getattr(node, name, ())
            if isinstance(node, ast.stmt):
                found.append((path.relative_to(PACKAGE), node))
    return found


def test_no_sentence_of_a_docstring_begins_with_a_question_word() -> None:
    places = [
        f"{path}:{node.lineno + node.value.value.count(chr(10), 0, match.end())}"
        for path, node in statements()
        if isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
        for match in FOREIGN.finditer(node.value.value)
    ]
    assert places == []


def test_no_two_classes_share_a_name() -> None:
    names = Counter(node.name for _, node in statements() if isinstance(node, ast.ClassDef))
    assert [name for name, count in names.items() if count > 1] == []


def test_no_function_is_called_by_of() -> None:
    """Its name is a verb and a noun, or a noun: `render_text`, `event_row`, not `text_of` or `of`."""
    names = [
        f"{path}:{node.lineno} {node.name}"
        for path, node in statements()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and OF.search(node.name)
    ]
    assert names == []
