"""The commands of operators: `mesh backup`, `mesh restore`, `mesh release` and `mesh drain`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from meshwright.cli.connect import Connection, talk
from meshwright.cli.options import Target, data_option, json_option, mesh_options
from meshwright.cli.output import document, echo_json
from meshwright.core.display import Document, local_time
from meshwright.core.errors import InvalidInput

if TYPE_CHECKING:
    from meshwright.services.maintenance.backup import Backup
    from meshwright.settings import Settings

_WAIT_SECONDS = 60.0
_file = click.argument("file", type=click.Path(dir_okay=False, path_type=Path))


@click.command()
@_file
@data_option
@json_option
def backup(file: Path, data: Path | None, as_json: bool) -> None:
    """Copy all that a mesh keeps to one file, while it runs.

    It need not run. The file has the store and the keys that open it, all of one moment, and is for you alone
    (0600): with it anybody has the mesh. It overwrites nothing. `mesh restore` makes a data folder of it.
    """
    from meshwright.services.maintenance.backup import write_backup

    settings = _embedded(data)
    written = write_backup(settings.data_dir, file, _progress())
    if as_json:
        echo_json({**document(written.backup), "file": str(file), "bytes": written.bytes})
        return
    click.echo(f"{file}: {written.bytes:,} bytes; {_contents(written.backup)}")


@click.command()
@_file
@data_option
@json_option
def restore(file: Path, data: Path | None, as_json: bool) -> None:
    """Make a data folder of a backup.

    The folder is new or empty. The mesh that you start there begins no task before `mesh release`, or with
    `mesh up --release`: tasks that were open in the backup may have run since, and would run again.
    """
    from meshwright.services.maintenance.backup import restore as unpack

    folder = _embedded(data).data_dir
    found = unpack(file, folder, _progress())
    if as_json:
        echo_json({**document(found), "data_dir": str(folder)})
        return
    click.echo(f"{folder}: {_contents(found)}")
    option = f" --data {data}" if data else ""
    begin = f"mesh up{option}, look at mesh tasks{option}, then: mesh release{option}"
    click.echo(f"its open tasks are held: {begin}", err=True)


@click.command()
@json_option
@mesh_options
def release(target: Target, as_json: bool) -> None:
    """Begin the work that a restored or drained mesh holds."""
    found = talk(target, _release, need="change")
    if as_json:
        echo_json(found)
        return
    click.echo(f"the mesh is working: {found['running']:,} running, {found['waiting']:,} waiting for a slot")


async def _release(mesh: Connection) -> Document:
    return await mesh.client.release()


@click.command()
@click.option("--wait", is_flag=True, help="Return when nothing runs any more.")
@json_option
@mesh_options
def drain(target: Target, wait: bool, as_json: bool) -> None:
    """Begin no more work, and let what runs end.

    The mesh answers 503 at /readyz from then on. Running work goes on; tasks are still accepted, and run at
    the next start or in another process of the mesh. Stop it then, or go on with `mesh release`. A container
    runs it with --wait before it is stopped.
    """

    async def ask(mesh: Connection) -> Document:
        if not mesh.is_running:
            raise InvalidInput(f"no mesh runs on {mesh.where}", remedy="name one that runs: --url or --data")
        found = await mesh.client.drain()
        while wait and found["running"]:
            found = await mesh.client.drain(wait_seconds=_WAIT_SECONDS)
        return found

    found = talk(target, ask)
    if as_json:
        echo_json(found)
        return
    running, waiting = found["running"], found["waiting"]
    click.echo(f"the mesh is draining: {running:,} running, {waiting:,} left for the next start")


def _embedded(data: Path | None) -> Settings:
    """The settings of a mesh whose store is a data folder. Raises InvalidInput for any other."""
    from meshwright.settings import load_settings

    settings = load_settings(Path(), data_dir=data)
    if settings.database is not None:
        remedy = "use pg_dump and pg_restore: docs/postgres.md says how"
        raise InvalidInput("this mesh keeps its data in PostgreSQL", remedy=remedy, field="database")
    if settings.store != "sqlite":
        remedy = "back up the services that hold its state"
        raise InvalidInput(
            f"this mesh keeps its data in the store {settings.store}", remedy=remedy, field="store"
        )
    return settings


def _contents(backup: Backup) -> str:
    at = f" of {local_time(backup.last_event_at.isoformat())}" if backup.last_event_at else ""
    return f"{backup.tasks:,} tasks, {backup.open_tasks:,} of them open; last event {backup.last_seq:,}{at}"


def _progress() -> Callable[[int, int], None] | None:
    if not sys.stderr.isatty():
        return None

    def show(copied: int, pages: int) -> None:
        click.echo(f"\r{copied:,} of {pages:,} pages", err=True, nl=copied == pages)

    return show
