"""The Python of docs/components.md runs: its blocks, and the code within its sentences."""

import ast
import re
from collections.abc import Iterator
from contextlib import suppress
from inspect import isawaitable
from pathlib import Path
from typing import Annotated, Any

import aiohttp
import pytest
from fastapi import APIRouter
from pydantic import BaseModel

import meshwright.component
import meshwright.kit
import meshwright.tools
from meshwright import MeshError, TaskRequest
from meshwright.component import Caller, Component, Part, build_mesh, make_router
from meshwright.core.errors import Unauthenticated
from meshwright.edges.http.server import serving
from meshwright.kit import Role, Rule
from tests.support.http_mesh import Echo
from tests.support.settings import load_settings

PAGE = (Path(__file__).parents[3] / "docs/components.md").read_text()
PROTOCOL = PAGE.partition("## Let clients in by another protocol")[2]
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE, flags=re.M | re.S)
NAMES: dict[str, Any] = {
    name: getattr(module, name)
    for module in (meshwright.component, meshwright.kit, meshwright.tools)
    for name in module.__all__
}
NAMES |= {"Annotated": Annotated, "APIRouter": APIRouter, "BaseModel": BaseModel, "TaskRequest": TaskRequest}
NAMES |= {"SEE": Rule("sees the rota", (Role.VIEWER,)), "NOBODY": {}, "Person": BaseModel, "People": object}


class PagerComponent(Component):
    name = "pager"

    def routes(self) -> APIRouter:
        """A route with the parameters that the page writes."""
        [operations] = re.findall(r"`(operations: Annotated\[Operations, may\([^`]+)`", PROTOCOL)
        [caller] = re.findall(r"`(caller: ViewerDep)`", PROTOCOL)
        names = dict(NAMES)
        code = (
            f"async def cancel(task_id: str, {operations}, {caller}) -> str:\n"
            "    return (await operations.cancel(task_id)).status"
        )
        exec(code, names)  # noqa: S102 - it is our own page
        router = make_router("pager")
        router.delete("/pager/{task_id}")(names["cancel"])
        return router


PAGER = Part(__name__, "pager", component=PagerComponent)


def test_the_blocks_of_the_page_are_made_of_public_names() -> None:
    blocks = [block for block in BLOCKS if "await mesh." not in block]  # the test of protocols has that one
    assert len(blocks) >= 8
    for block in blocks:
        body = f"class Example:\n{block}" if block.startswith("    ") else block
        code = f"from __future__ import annotations\n{body}"
        exec(code, {**NAMES, "__name__": "acme.part"})  # noqa: S102 - it is our own page


async def test_a_route_asks_for_the_operation_that_the_page_names(tmp_path: Path) -> None:
    settings = load_settings(tmp_path, model="offline", durability="normal")
    async with (
        build_mesh(settings, project=tmp_path, agents=[Echo], parts=[PAGER]) as mesh,
        serving(mesh, "127.0.0.1", 0) as server,
        aiohttp.ClientSession(server.url) as session,
    ):
        async with session.post("/tasks", json={"agent_id": "echo", "task_id": "t1"}) as accepted:
            assert accepted.status == 202
        async with session.delete("/pager/t1") as cancelled:
            assert (cancelled.status, await cancelled.json() in ("cancelled", "succeeded")) == (200, True)
        async with session.delete("/pager/t2") as unknown:
            assert unknown.status == 404


def calls_of(text: str) -> Iterator[str]:
    """The code in sentences that calls something by its arguments."""
    for span in re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)):
        try:
            expression = ast.parse(span.removeprefix("await "), mode="eval")
        except SyntaxError:
            continue
        if any(isinstance(node, ast.Call) for node in ast.walk(expression)):
            yield span


def compiled(code: str, mode: str) -> Any:
    """Code that may await, without the arguments that stand for any (`token=...`)."""
    tree = compile(code, "page", mode, ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            node.keywords = [word for word in node.keywords if ast.unparse(word.value) != "..."]
    return compile(tree, "page", mode, ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


@pytest.mark.parametrize("code", [*calls_of(PROTOCOL), BLOCKS[-1]])
async def test_the_calls_of_a_protocol_work_as_the_page_writes_them(code: str, tmp_path: Path) -> None:
    settings = load_settings(tmp_path, model="offline", durability="normal")
    async with build_mesh(settings, project=tmp_path, agents=[Echo], parts=[PAGER]) as mesh:
        names = {
            **NAMES,
            **{"mesh": mesh, "caller": Caller(), "error": MeshError("no such pager"), "content": "a text"},
            **{"body": b'{"capability": "paging"}', "tenant_id": "default", "task_id": "t1"},
        }
        result = eval(compiled(code, "exec" if "\n" in code else "eval"), names)  # noqa: S307 our own page
        with suppress(Unauthenticated):  # without a token
            if isawaitable(result):
                await result
