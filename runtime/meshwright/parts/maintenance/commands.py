"""The commands of operators: `mesh backup`, `restore`, `migrate`, `verify`, `hold`, `release` and `drain`."""

from __future__ import annotations

import asyncio
import base64
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from meshwright.console.connect import running_mesh
from meshwright.console.options import data_option
from meshwright.engine.sql.folder import TREES
from meshwright.kit import (
    Connection,
    Document,
    InvalidInput,
    Target,
    document,
    echo_json,
    json_option,
    local_time,
    mesh_options,
    say,
    talk,
)

if TYPE_CHECKING:
    from meshwright.component import Mesh, Settings
    from meshwright.engine.events.verify import ChainReport
    from meshwright.parts.maintenance.backup import Backup
    from meshwright.parts.maintenance.verify import StoreVerification

_WAIT_SECONDS = 60.0
_KEY_BYTES = 32
_REMEDY_OF_STORE = (
    "Make a backup of it as it is now, before anything changes it, and compare with an earlier one: "
    "mesh verify --data RESTORED. A list that deviates is rebuilt once its row in projection_positions is "
    "deleted, while the mesh is stopped"
)
_PROGRESS_SECONDS = 0.5
_NOT_COMPARED = (
    "The tasks are in the state store of Dapr, and are not compared: start the mesh, with --hold to look "
    "before it works, and verify again"
)
_WITHOUT_TASKS = (
    "It has what the front keeps: event log, lists, keys, schedules. Tasks, steps and budgets are in the "
    "state store of Dapr: copy that too while mesh hold lets nothing begin; of mesh up, {redis}"
)
_WITHOUT_TREES = (
    "Not in it: {count} of tasks, in {folder}. Stop the mesh and copy that folder too, or fetch the commits: "
    "mesh trees show TASK"
)
_RESTORE_TREES = (
    "Not in it: {count} of tasks. If you have a copy, put it to {folder} before the mesh starts. Tasks on "
    "code whose tree is gone fail: submit them again"
)
_RESTORE_TASKS = (
    "The tasks are not in the file: restore the state store of Dapr too, from the copy of the same moment, "
    "and let the broker be empty"
)
_REMEDY = (
    "The rows before the first one named are as they were written. Copy the folder as it is now (on "
    "PostgreSQL dump the database too), before anything changes it, and compare with a backup that verifies: "
    "mesh verify --audit --data BACKUP"
)
_file = click.argument("file", type=click.Path(dir_okay=False, path_type=Path))


@click.command()
@_file
@data_option
@json_option
def backup(file: Path, data: Path | None, as_json: bool) -> None:
    """Copy all that a mesh keeps to one file, while it runs.

    It need not run. The file has the store and the keys that open it, all of one moment, and is for you alone
    (0600): with it anybody has the mesh. It overwrites nothing. `mesh restore` makes a data folder of it.
    The trees that tasks on code work on are not in it; the command says how many there are.

    Of a mesh on Dapr the file has what the front keeps (event log, lists, keys, schedules) and no tasks: they
    are in the state store, which you copy by its own means while mesh hold lets nothing begin.
    """
    from meshwright.parts.maintenance.backup import write_backup
    from meshwright.parts.stack.machine import front_folder

    settings = _embedded(data)
    folder = settings.data_dir
    front = front_folder(folder)
    if front == folder:  # the front's folder was named
        folder = folder.parent
    name = front.name if front else ""
    result = write_backup(folder, file, _progress("pages"), front=name)
    if as_json:
        echo_json({**document(result.backup), "file": str(file), "bytes": result.bytes})
    else:
        say(f"{file}: {result.bytes:,} bytes; {_contents(result.backup)}")
    if front or settings.store == "dapr":
        say(_WITHOUT_TASKS.format(redis=folder / "redis" / "appendonlydir"), err=True)
    _say_trees(_WITHOUT_TREES, result.backup, folder)


@click.command()
@_file
@data_option
@json_option
def restore(file: Path, data: Path | None, as_json: bool) -> None:
    """Make a data folder of a backup.

    The folder is new or empty. The mesh that you start there begins no task before `mesh release`, or with
    `mesh up --release`: tasks that were open in the backup may have run since, and would run again.
    """
    from meshwright.parts.maintenance.backup import restore as unpack

    folder = _embedded(data).data_dir
    backup = unpack(file, folder, _progress("pages"))
    if as_json:
        echo_json({**document(backup), "data_dir": str(folder)})
        return
    say(f"{folder}: {_contents(backup)}")
    _say_trees(_RESTORE_TREES, backup, folder)
    if backup.front:
        say(_RESTORE_TASKS, err=True)
    option = f" --data {data}" if data else ""
    store = " --store dapr" if backup.front else ""
    begin = f"mesh up{store}{option}, look at mesh tasks{option}, then: mesh release{option}"
    say(f"its open tasks are held: {begin}", err=True)


@click.command()
@click.option(
    "--from",
    "source",
    metavar="STORE",
    required=True,
    help="sqlite:DIR, or postgresql://user@host/name; postgresql is the database of the settings.",
)
@click.option("--to", "target", metavar="STORE", help="The store to fill: an empty one of the other kind.")
@click.option("--reopen", is_flag=True, help="Let a store that was migrated be opened for work again.")
@data_option
@json_option
def migrate(source: str, target: str | None, reopen: bool, data: Path | None, as_json: bool) -> None:
    """Move a stopped mesh from SQLite to PostgreSQL, or back.

    It takes along all that the mesh keeps. Open tasks go on at the target, each once: what waits for people,
    time or money waits there, and no finished step is repeated. The source stays as it is, and from then on
    refuses to work. If the command breaks off, the target refuses too: run it again. `--data` is the data
    folder of the mesh on PostgreSQL, which has its secret keys.
    """
    from meshwright.parts.maintenance import migrate as migrating

    if reopen == (target is not None):
        raise click.UsageError(
            "Name the store to fill by --to, or give --reopen.", click.get_current_context()
        )
    before = _store(source, data)
    if target is None:
        asyncio.run(migrating.reopen(before.database))
        click.echo(f"{before.database.location} may be opened for work again")
        return
    after = _store(target, data)
    report = asyncio.run(migrating.migrate(before.database, after.database, _progress("rows")))
    if as_json:
        echo_json(document(report))
        return
    tasks = f"{report.tasks:,} tasks, {report.open_tasks:,} of them open; last event {report.last_seq:,}"
    click.echo(f"{report.target}: {report.rows:,} rows of {report.tables} tables; {tasks}")
    click.echo(f"start the mesh there; {report.source} is as it was, and refuses to work", err=True)


def _store(location: str, data: Path | None) -> Mesh:
    """A mesh that is not started, on the store of an option. Raises InvalidInput for none."""
    from pydantic import SecretStr

    from meshwright.component import build_mesh, load_settings
    from meshwright.mesh.app import sqlite_runtime

    settings = load_settings(Path(), data_dir=data).having(store="sqlite", accept_loss=False)
    kind, _, place = location.partition(":")
    if kind == "sqlite" and place:
        settings = settings.having(database=None, data_dir=Path(place))
    elif kind in ("postgresql", "postgres") and place:
        settings = settings.having(database=SecretStr(location))
    elif kind != "postgresql" or settings.database is None:
        remedy = "Write sqlite:DIR or postgresql://user@host/name; postgresql is the database of the settings"
        raise InvalidInput(f"{kind!r} names no store", remedy=remedy)
    return build_mesh(settings.without_unread(), agents=[], runtime=sqlite_runtime)


@click.command()
@json_option
@mesh_options
def hold(target: Target, as_json: bool) -> None:
    """Begin no more work in any process of a mesh, before mesh release.

    Running work goes on, and tasks are accepted. A restart changes nothing about it, and a copy of the store
    made meanwhile is held too. The processes beside the one that answers follow within seconds.
    """
    state = talk(target, lambda mesh: mesh.client.hold(), need="change")
    sentence = f"the mesh is held: {state['running']:,} running, {state['waiting']:,} wait for mesh release"
    echo_json(state) if as_json else say(sentence)


@click.command()
@json_option
@mesh_options
def release(target: Target, as_json: bool) -> None:
    """Begin the work of a mesh that is held, restored or drained."""
    state = talk(target, lambda mesh: mesh.client.release(), need="change")
    sentence = f"the mesh is working: {state['running']:,} running, {state['waiting']:,} waiting for a slot"
    echo_json(state) if as_json else say(sentence)


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
            remedy = "name one that runs: --url or --data; a mesh worker drains when it is stopped"
            raise InvalidInput(f"no mesh runs on {mesh.where}", remedy=remedy)
        work = await mesh.client.drain()
        while wait and work["running"]:
            work = await mesh.client.drain(wait_seconds=_WAIT_SECONDS)
        return work

    state = talk(target, ask)
    summary = f"{state['running']:,} running, {state['waiting']:,} left for the next start"
    echo_json(state) if as_json else say(f"the mesh is draining: {summary}")


def _embedded(data: Path | None) -> Settings:
    """The settings of a mesh that keeps its log in its data folder. Raises InvalidInput for any other."""
    from meshwright.component import load_settings

    settings = load_settings(Path(), data_dir=data)
    if settings.database is not None:
        remedy = "use pg_dump and pg_restore: docs/postgres.md says how"
        raise InvalidInput("this mesh keeps its data in PostgreSQL", remedy=remedy, field="database")
    if settings.store not in ("sqlite", "dapr"):
        remedy = "back up the services that hold its state"
        raise InvalidInput(
            f"this mesh keeps its data in the store {settings.store}", remedy=remedy, field="store"
        )
    return settings


def _contents(backup: Backup) -> str:
    at = f" of {local_time(backup.last_event_at.isoformat())}" if backup.last_event_at else ""
    return f"{backup.tasks:,} tasks, {backup.open_tasks:,} of them open; last event {backup.last_seq:,}{at}"


def _say_trees(text: str, backup: Backup, folder: Path) -> None:
    if backup.trees:
        count = "1 tree" if backup.trees == 1 else f"{backup.trees:,} trees"
        say(text.format(count=count, folder=folder / TREES), err=True)


def _public_key(ctx: click.Context, parameter: click.Parameter, value: str) -> str:
    try:
        is_key = not value or len(base64.b64decode(value, validate=True)) == _KEY_BYTES
    except ValueError:
        is_key = False
    if not is_key:
        raise click.BadParameter(f"{value!r} is no public key as mesh verify prints it", ctx, parameter)
    return value


@click.command()
@click.option("--audit", is_flag=True, help="The event log alone: its hash chain and its signed heads.")
@click.option(
    "--key",
    default="",
    metavar="KEY",
    callback=_public_key,
    help="The public key that has to have signed the heads.",
)
@json_option
@mesh_options
def verify(target: Target, audit: bool, key: str, as_json: bool) -> None:
    """Verify the event log, the lists and the tasks of a store.

    Walks the hash chain of the log, checks the signed heads in audit.heads and in the log, and names the
    first row that was altered, deleted or inserted. Then rebuilds each list from the events and compares
    it, and looks whether every accepted task is open or has its one outcome, whether claims and attempts are
    single, and whether outcomes cost what their calls cost. Each deviation is one line. It writes nothing,
    and the mesh may run meanwhile. Exit status 1 if anything is wrong.
    """
    log, store = _verified_there(target, audit) if target.url else _verified_here(target, key, audit)
    if as_json:
        echo_json(asdict(log) if store is None else {"audit": asdict(log), "store": store.model_dump()})
    else:
        _report(log)
        if store is not None:
            _report_store(store)
    if log.faults or (store is not None and store.faults):
        raise click.exceptions.Exit(1)


def _verified_there(target: Target, audit: bool) -> tuple[ChainReport, StoreVerification | None]:
    async def ask(mesh: Connection) -> tuple[ChainReport, StoreVerification | None]:
        log = await mesh.client.verify_audit()
        return log, None if audit else await _verify_store(mesh)

    return talk(target, ask)


async def _verify_store(mesh: Connection) -> StoreVerification:
    from meshwright.parts.maintenance.verify import StoreVerification

    return StoreVerification(**await mesh.client.verify_store())


def _verified_here(target: Target, key: str, audit: bool) -> tuple[ChainReport, StoreVerification | None]:
    from meshwright.component import build_mesh, load_settings
    from meshwright.engine.events.heads import FILE_NAME as HEADS
    from meshwright.engine.events.verify import verify
    from meshwright.engine.sql.sqlite import FILE_NAME
    from meshwright.mesh.app import choose_database, sqlite_runtime
    from meshwright.parts.maintenance.verify import keeps_actors, verify_store
    from meshwright.parts.stack.machine import front_folder

    settings = whole = load_settings(Path(), data_dir=target.data)
    if (front := front_folder(settings.data_dir)) is not None:
        settings = settings.having(data_dir=front, store="dapr")
    else:
        folders = {path.parent for name in (HEADS, FILE_NAME) for path in settings.data_dir.glob(f"*/{name}")}
        own = [settings.data_dir / name for name in (HEADS, FILE_NAME)]
        if len(folders) == 1 and not any(path.exists() for path in own):  # the front's, on PostgreSQL say
            settings = settings.having(data_dir=folders.pop())
    if settings.database is None and not (settings.data_dir / FILE_NAME).is_file():
        raise click.ClickException(f"{settings.data_dir} has no event log; name its folder: --data DIR")
    report = verify(choose_database(settings, Path()), _progress("rows"), key=key)
    if audit:
        return report, None
    has_actors = keeps_actors(settings.store)
    if not has_actors and (store := asyncio.run(_verified_by(whole))) is not None:
        return report, store
    mesh = build_mesh(settings.without_unread(), agents=[], runtime=sqlite_runtime)  # it is not started
    database, progress = mesh.database, _progress("events")
    store = verify_store(database, mesh.log.projections, database.migrations, progress, has_actors=has_actors)
    if not has_actors:
        store.notes.append(_NOT_COMPARED)
    return report, store


async def _verified_by(settings: Settings) -> StoreVerification | None:
    """The findings of the mesh that runs on a data folder, which alone reaches a store elsewhere."""
    async with running_mesh(settings) as mesh:
        return None if mesh is None else await _verify_store(mesh)


def _progress(unit: str) -> Callable[[int, int], None] | None:
    """Shows how far a command has come at a terminal; there alone."""
    if not sys.stderr.isatty():
        return None
    shown_at = time.monotonic()

    def show(reached: int, last: int) -> None:
        nonlocal shown_at
        if time.monotonic() - shown_at > _PROGRESS_SECONDS or reached == last:
            shown_at = time.monotonic()
            click.echo(f"\r{reached:,} of {last:,} {unit}", err=True, nl=reached == last)

    return show


def _report_store(report: StoreVerification) -> None:
    say(report.sentence())
    for note in report.notes:
        say(note)
    for fault in report.faults:
        say(f"mesh: {fault}", err=True, indent=6)
    if report.faults:
        say(_REMEDY_OF_STORE, err=True)


def _report(report: ChainReport) -> None:
    from meshwright.engine.events.heads import fingerprint

    say(report.sentence())
    if report.key:
        say(f"heads signed by key {report.key} ({fingerprint(report.key)})")
    if unsigned := 0 if report.faults else report.last - report.signed_seq:
        rows, are, them = ("1 row", "is", "it") if unsigned == 1 else (f"{unsigned:,} rows", "are", "them")
        say(f"{rows} behind row {report.signed_seq:,} {are} chained, and no head vouches for {them} yet")
    if report.pruned_seq:
        click.echo(f"rows up to {report.pruned_seq:,} were deleted by age")
    if report.erased:
        click.echo(f"{report.erased:,} payloads were erased, on record")
    for note in report.notes:
        say(note)
    for fault in report.faults:
        say(f"mesh: {fault}", err=True, indent=6)
    if report.faults:
        say(_REMEDY, err=True)
