"""`mesh trees`: the commands that show a tree and its changes."""

from __future__ import annotations

import click

from meshwright.cli.connect import talk
from meshwright.cli.nouns import group_of, ids_of
from meshwright.cli.options import Target, json_option, mesh_options
from meshwright.cli.output import echo_json, labelled
from meshwright.core.display import Document, local_time
from meshwright.trees.display import TREES

trees = group_of(TREES)


@trees.command("show")
@click.argument("task_id", metavar="ID", shell_complete=ids_of(TREES))
@json_option
@mesh_options
def _show(target: Target, task_id: str, as_json: bool) -> None:
    """Show the tree of a task, the files that were changed, and how to fetch its commits."""
    tree: Document = talk(target, lambda mesh: mesh.client.call("GET", TREES.path_of(task_id)), need="state")
    if as_json:
        echo_json(tree)
        return
    rows = [
        ("task", tree["task_id"]),
        ("repository", tree["repository"]),
        ("since", local_time(tree["created_at"])),
        ("base", tree["base"]),
        ("branch", tree["branch"] if tree["head"] != tree["base"] else "no commit yet"),
        ("commit", tree["head"] if tree["head"] != tree["base"] else ""),
        ("fetch it", f"git fetch {tree['repository_path']} {tree['branch']}" if _has_commit(tree) else ""),
    ]
    click.echo(labelled(row for row in rows if row[1]))
    for status, path in tree["changed"]:
        click.echo(f"{status} {path}")
    for path in tree["left_out"]:
        click.echo(f"ignored: {path}")


def _has_commit(tree: Document) -> bool:
    return tree["head"] != tree["base"]


@trees.command("diff")
@click.argument("task_id", metavar="ID", shell_complete=ids_of(TREES))
@mesh_options
def _diff(target: Target, task_id: str) -> None:
    """Print the changes of a task's tree, for git apply."""
    document: Document = talk(
        target, lambda mesh: mesh.client.call("GET", f"{TREES.path_of(task_id)}/diff"), need="state"
    )
    click.echo(document["diff"], nl=False)
