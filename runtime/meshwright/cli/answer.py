"""`mesh answer`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from meshwright.cli.client import MeshClient
from meshwright.cli.options import from_stdin, mesh_options


class JsonValue(click.ParamType[Any]):
    """Any value, written as JSON."""

    name = "JSON"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Parse it, or say where it stops being JSON."""
        try:
            return (json.loads(value),)  # in a tuple: null is a value too
        except ValueError as error:
            self.fail(f"not JSON: {error}", param, ctx)


@click.command()
@click.argument("task_id", metavar="ID")
@click.argument("key")
@click.argument("text", required=False, callback=from_stdin)
@click.option("--json", "value", type=JsonValue(), metavar="VALUE", help="The answer as JSON, not as text.")
@mesh_options
def answer(
    task_id: str, key: str, text: str | None, value: tuple[Any] | None, url: str | None, data: Path | None
) -> None:
    """Answer what a task waits for.

    mesh task ID shows the KEY and what is asked. TEXT is the answer in words; - reads it from stdin. ID and
    KEY may be an end or a beginning that only one has.
    """
    from meshwright.cli.connect import talk
    from meshwright.cli.ids import task_id_of, wait_key_of
    from meshwright.cli.tasks import page

    if (text is None) == (value is None):
        raise click.UsageError(
            "give the answer either as TEXT or with --json VALUE", click.get_current_context()
        )

    async def answer_it(mesh: MeshClient) -> str:
        task = await task_id_of(mesh, task_id)
        waits_for = await wait_key_of(mesh, task, key)
        view = await mesh.answer(task, waits_for, text if value is None else value[0])
        return await page(mesh, view, as_json=False)

    click.echo(talk(url, data, answer_it))
