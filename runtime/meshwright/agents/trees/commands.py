"""`mesh trees`: the commands that show a tree and its changes."""

from __future__ import annotations

import click

from meshwright.agents.trees.display import TREES
from meshwright.console.connect import talk
from meshwright.console.nouns import completes_ids, resource_group
from meshwright.console.options import Target, json_option, mesh_options
from meshwright.console.output import echo, labelled
from meshwright.core.display import Document, local_time

trees = resource_group(TREES)


@trees.command("show")
@click.argument("task_id", metavar="ID", shell_complete=completes_ids(TREES))
@json_option
@mesh_options
def _show(target: Target, task_id: str, as_json: bool) -> None:
    """Show the tree of a task, the files that were changed, and how to fetch its commits."""
    tree: Document = talk(
        target, lambda mesh: mesh.client.call("GET", TREES.item_path(task_id)), need="state"
    )
    has_commit = tree["head"] != tree["base"]
    rows = [
        ("task", tree["task_id"]),
        ("repository", tree["repository"]),
        ("since", local_time(tree["created_at"])),
        ("base", tree["base"]),
        ("branch", tree["branch"] if has_commit else "no commit yet"),
        ("commit", tree["head"] if has_commit else ""),
        ("fetch it", f"git fetch {tree['repository_path']} {tree['branch']}" if has_commit else ""),
    ]
    changed = [f"{status} {path}" for status, path in tree["changed"]]
    ignored = [f"ignored: {path}" for path in tree["left_out"]]
    page = labelled(row for row in rows if row[1])
    echo(tree, "\n".join([page, *changed, *ignored]), as_json=as_json)


@trees.command("diff")
@click.argument("task_id", metavar="ID", shell_complete=completes_ids(TREES))
@mesh_options
def _diff(target: Target, task_id: str) -> None:
    """Print the changes of a task's tree, for git apply."""
    document: Document = talk(
        target, lambda mesh: mesh.client.call("GET", f"{TREES.item_path(task_id)}/diff"), need="state"
    )
    click.echo(document["diff"], nl=False)
