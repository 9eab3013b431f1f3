"""Trees, as the client and the commands show them."""

from __future__ import annotations

from meshwright.core.display import Column, Resource, local_time

TREES = Resource(
    "trees",
    "/trees",
    (
        Column("task", "task_id"),
        Column("repository", "repository", cut=1),
        Column("branch", "branch", cut=2),
        Column("since", "created_at", local_time),
    ),
    help="""List the trees that tasks work on; show what was changed.

    A task and all that it delegates share a tree, which is kept as long as its outcome.
    """,
    lists="List trees with their repositories.",
    empty="there are no trees; a task that works on a repository makes one",
)
RESOURCES = (TREES,)
