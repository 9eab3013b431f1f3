"""The agents that a project declares, read from their files without running them.

What a file computes stays unknown: agents made by a call, or with attributes that are no literals.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from meshwright.agents.loader import installed_agents, project_file
from meshwright.capability import Capability, Registration
from meshwright.prompts import Brought
from meshwright.settings import Settings


@dataclass
class Declared:
    """What the files of a folder declare, and those files that say more only when they run."""

    agents: list[Registration] = field(default_factory=list)
    brought: dict[str, Brought] = field(default_factory=dict)
    unknown: list[Path] = field(default_factory=list)

    @property
    def note(self) -> str:
        """Which files keep something back; empty where none does."""
        if not self.unknown:
            return ""
        files = ", ".join(map(str, self.unknown))
        return f"what these declare is known only once they run, and a reading command runs nothing: {files}"


def declared_agents(settings: Settings) -> Declared:
    """Read the agents of a project's files and packages, by file name. Runs and imports nothing of them."""
    folder = project_file(Path(), settings.agents.dir)
    found = Declared()
    for path in sorted(folder.rglob("*.py")) if folder.is_dir() else ():
        if not any(part.startswith(("_", ".")) for part in path.relative_to(folder).parts[:-1]):
            _read_file(path, found)
    for agent in installed_agents():  # their packages are trusted: somebody installed them
        found.agents.append(agent.registration())
        if agent.prompt_text:
            found.brought[agent.prompt] = Brought(agent.prompt_text, agent.__name__, agent.__module__)
    found.agents.sort(key=lambda agent: agent.agent_id)
    return found


def _read_file(path: Path, found: Declared) -> None:
    try:
        classes = list(_agents_in(ast.parse(path.read_bytes())))
    except (OSError, SyntaxError, ValueError):
        found.unknown.append(path)
        return
    known = [_read_agent(path, node, found) for node in classes]
    helper = path.name.startswith("_")
    if not all(known) or not (known or helper):
        found.unknown.append(path)


def _agents_in(tree: ast.Module) -> Iterator[ast.ClassDef]:
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and "agent_id" in _attributes(node):
            yield node


def _read_agent(path: Path, node: ast.ClassDef, found: Declared) -> bool:
    """Take in what a class declares; whether all of it that matters here is literal."""
    attributes = _attributes(node)
    try:
        agent_id = ast.literal_eval(attributes["agent_id"])
        prompt = ast.literal_eval(attributes["prompt"]) if "prompt" in attributes else agent_id
        capabilities = tuple(_capability(item) for item in _items(attributes.get("capabilities")))
        described = {"description": (ast.get_docstring(node) or "").partition("\n")[0], "prompt": prompt}
        agent = Registration(agent_id=agent_id, name=node.name, capabilities=capabilities, metadata=described)
    except (ValueError, TypeError, ValidationError):
        return False
    found.agents.append(agent)
    return "prompt_text" not in attributes or _read_prompt(path, node, prompt, found)


def _read_prompt(path: Path, node: ast.ClassDef, prompt: str, found: Declared) -> bool:
    try:
        text = ast.literal_eval(_attributes(node)["prompt_text"])
    except ValueError:
        text = None
    found.brought[prompt] = Brought(text if isinstance(text, str) else "", node.name, str(path))
    return isinstance(text, str)


def _attributes(node: ast.ClassDef) -> dict[str, ast.expr]:
    """What the body of a class assigns to names."""
    assigned: dict[str, ast.expr] = {}
    for statement in node.body:
        if isinstance(statement, ast.Assign):
            names = [target.id for target in statement.targets if isinstance(target, ast.Name)]
            assigned.update(dict.fromkeys(names, statement.value))
        elif isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            assigned |= {statement.target.id: statement.value} if statement.value else {}
    return assigned


def _items(node: ast.expr | None) -> list[ast.expr]:
    if node is None:
        return []
    if isinstance(node, ast.Tuple | ast.List):
        return node.elts
    raise ValueError("no literal")


def _capability(node: ast.expr) -> Capability:
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name) or node.func.id != "Capability":
        raise ValueError("no literal")
    values: dict[str, Any] = {
        keyword.arg: ast.literal_eval(keyword.value) for keyword in node.keywords if keyword.arg
    }
    return Capability(*(ast.literal_eval(value) for value in node.args), **values)
