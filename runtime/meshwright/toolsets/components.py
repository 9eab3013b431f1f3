"""The toolset of components: what a user interface in a task's tree is made of already."""

from __future__ import annotations

import asyncio
from typing import Annotated

from pydantic import Field

from meshwright.agents.tools.tool import ToolContext, tool
from meshwright.agents.tools.toolset import Toolset

_SCRIPT = (
    r"^\s*(export\s+)?(default\s+)?(async\s+)?(function|class|const)\s+[A-Z]\w*[a-z]\w*"
    r"|customElements\.define\("
)
_TOKEN = r"^\s*(--[\w-]+|[$@][\w-]+)\s*:"
_TEMPLATE = r"<template\b|\{%-?\s*(macro|block)\b"
_DEFINITIONS = {
    "*.[jt]s": _SCRIPT,
    "*.[jt]sx": _SCRIPT,
    "*.css": _TOKEN,
    "*.scss": _TOKEN,
    "*.html": _TEMPLATE,
}
"""Lines that define a component, a design token or a template, by the names of files."""
_WHOLE = (".vue", ".svelte", ".astro", ".hbs", ".ejs", ".j2", ".jinja", ".liquid")
"""Files that are a component or a template each."""
_MAX_FILES, _MAX_LINES, _MAX_SHOWN = 20_000, 1_000, 200


class ComponentTools(Toolset):
    """Finds the components, templates and design tokens of the tree of a task."""

    @tool(idempotent=True, effect="read", origin="workspace")
    async def components(self, context: ToolContext, name: Annotated[str, Field(max_length=100)] = "") -> str:
        """List the components, templates and design tokens of the project, with file and line.

        Args:
            name: a part of their names or files, such as button; empty lists all
        """
        tree = await context.tree()
        files, _ = await asyncio.to_thread(tree.files.walk, "", _MAX_FILES)
        lines = [file.path for file in files if file.path.endswith(_WHOLE)]
        for glob, pattern in _DEFINITIONS.items():
            lines += (await tree.search(pattern, glob, most=_MAX_LINES)).splitlines()
        matches = [line for line in lines if name.lower() in line.lower()]
        more: list[str] = [] if len(matches) <= _MAX_SHOWN else ["[there are more: give a part of the name]"]
        return "\n".join([*matches[:_MAX_SHOWN], *more]) or "the project has none of that name"
