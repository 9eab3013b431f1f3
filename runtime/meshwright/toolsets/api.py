"""Tools for those who design APIs: an OpenAPI document read, checked, and compared with an older one."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field

from meshwright.core.errors import InvalidInput, ToolFailed
from meshwright.tools.git import REVISION, GitTools
from meshwright.tools.tool import ToolContext, tool
from meshwright.tools.toolset import Toolset
from meshwright.toolsets.openapi import OpenApi, breaking_changes
from meshwright.toolsets.yaml_text import Unreadable, read_yaml
from meshwright.trees.tree import Tree

_MAX_BYTES = 2_000_000
_MAX_DEPTH, _MAX_VALUES = 100, 500_000
_MAX_LISTED = 300


class ApiTools(Toolset):
    """Reads the OpenAPI documents of the workspace."""

    @tool(idempotent=True, effect="read", origin="workspace")
    async def openapi(
        self,
        path: Annotated[str, Field(min_length=1, max_length=4_096)],
        context: ToolContext,
        against: Annotated[str, Field(pattern=rf"^({REVISION})?$", max_length=200)] = "",
        in_tree: bool = False,
    ) -> dict[str, Any]:
        """List the operations of an OpenAPI document and its faults: missing errors, unused schemas,
        references that lead nowhere; and what breaks clients of an earlier revision of it.

        Args:
            path: the document, YAML or JSON
            against: a revision of git to compare with, such as main or v1.2
            in_tree: read it from the tree of the task, and compare it with the state at its beginning
        """
        if in_tree and against:
            raise InvalidInput(
                "A tree is compared with its beginning", remedy="Leave it out", field="against"
            )
        if in_tree:
            return await self._of_tree(path, await context.tree())
        text = await asyncio.to_thread(self.settings.files.read, path, _MAX_BYTES)
        now = await asyncio.to_thread(_read, text, path)
        if not against:
            return _facts(now)
        text = await GitTools(self.settings).file_at(against, path, _MAX_BYTES)
        return _facts(now, await asyncio.to_thread(_read, text, f"{path} of {against}"))

    async def _of_tree(self, path: str, tree: Tree) -> dict[str, Any]:
        text = await asyncio.to_thread(tree.files.read, path, _MAX_BYTES)
        now = await asyncio.to_thread(_read, text, path)
        try:
            before = await tree.original(path, _MAX_BYTES)
        except ToolFailed:  # it is new
            return _facts(now)
        return _facts(now, await asyncio.to_thread(_read, before, f"{path} at the beginning"))


def _facts(now: OpenApi, was: OpenApi | None = None) -> dict[str, Any]:
    found = {
        "title": now.document.get("info", {}).get("title"),
        "openapi": now.document.get("openapi"),
        "operations": [_summary(operation.name, operation.fields) for operation in now.operations],
        "findings": [f"{at} {problem}" for at, problem in now.findings()],
    }
    if was is not None:
        found["breaking"] = [f"{at} {problem}" for at, problem in breaking_changes(was, now)]
    return {name: _cut(value) for name, value in found.items()}


def _read(text: str, path: str) -> OpenApi:
    try:
        documents = read_yaml(text, max_depth=_MAX_DEPTH, max_values=_MAX_VALUES)
    except Unreadable as error:
        raise ToolFailed(f"{path} cannot be read: {error}") from error
    document = documents[0] if len(documents) == 1 else None
    if not isinstance(document, Mapping) or not str(document.get("openapi", "")).startswith("3."):
        remedy = "Name a document with `openapi: 3.x` in it"
        raise InvalidInput(f"{path} is no document of OpenAPI 3", remedy=remedy, field="path")
    return OpenApi(document)


def _summary(name: str, fields: Mapping[str, Any]) -> str:
    text = " ".join(str(fields.get("summary") or fields.get("operationId") or "").split())
    return f"{name}{' (deprecated)' if fields.get('deprecated') else ''}{f': {text[:100]}' if text else ''}"


def _cut(value: Any) -> Any:
    if not isinstance(value, list) or len(value) <= _MAX_LISTED:
        return value
    return [*value[:_MAX_LISTED], f"[cut: {len(value) - _MAX_LISTED:,} more]"]
