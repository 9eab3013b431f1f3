"""`/trees`: the trees that tasks work on, and their changes."""

from __future__ import annotations

from typing import Annotated

from fastapi import Path
from pydantic import BaseModel

from meshwright.core.ids import ID_PATTERN
from meshwright.core.messages import Caller
from meshwright.edges.http.routing import MeshDep, by_rule, make_router, problems
from meshwright.trees.operations import LIST, READ, TreeOperations, TreeSummary, TreeView

router = make_router("trees")
_NONE = {404: "The task works on no tree."}
_ViewerDep = Annotated[Caller, by_rule(LIST)]
_ContentsDep = Annotated[Caller, by_rule(READ)]
_TaskId = Annotated[str, Path(pattern=ID_PATTERN)]


class TreeList(BaseModel):
    """Trees, the oldest first."""

    items: list[TreeSummary]


class TreeDiff(BaseModel):
    """The changes of a tree as a unified diff with binary files; nothing where none differs."""

    diff: str


@router.get("/trees", summary="List trees")
async def _list_trees(mesh: MeshDep, caller: _ViewerDep) -> TreeList:
    """List the trees of your tenant on this machine: one for each task that works on a repository."""
    return TreeList(items=mesh.get(TreeOperations).page(caller))


@router.get("/trees/{task_id}", summary="Show a tree", responses=problems(_NONE))
async def _show_tree(mesh: MeshDep, caller: _ContentsDep, task_id: _TaskId) -> TreeView:
    """Show the tree that a task works on, also a delegated one, with the files that were changed."""
    return await mesh.get(TreeOperations).show(caller, task_id)


@router.get("/trees/{task_id}/diff", summary="Show the changes", responses=problems(_NONE))
async def _diff_tree(mesh: MeshDep, caller: _ContentsDep, task_id: _TaskId) -> TreeDiff:
    """Show the changes since the tree was made, as `git apply` takes them."""
    return TreeDiff(diff=await mesh.get(TreeOperations).diff(caller, task_id))
