"""`mesh erase`, `mesh verify` and `mesh secrets`."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from meshwright.cli.connect import Connection, talk
from meshwright.cli.keys import confirm
from meshwright.cli.options import Target, json_option, mesh_options, yes_option
from meshwright.cli.output import echo_json

if TYPE_CHECKING:
    from meshwright.events.verify import Verified

_PROGRESS_SECONDS = 0.5
_REMEDY = (
    "The rows before the first one named are as they were written. Copy the folder as it is now (on "
    "PostgreSQL dump the database too), before anything changes it, and compare with a backup that verifies: "
    "mesh verify --audit --data BACKUP"
)


@click.command()
@click.option("--audit", is_flag=True, help="The event log: its hash chain and its signed heads.")
@click.option("--key", default="", metavar="KEY", help="The public key that has to have signed the heads.")
@json_option
@mesh_options
def verify(target: Target, audit: bool, key: str, as_json: bool) -> None:
    """Verify that the event log is as it was written.

    Walks the hash chain, checks the signed heads in audit.heads and in the log, and names the first row that
    was altered, deleted or inserted. The mesh may run meanwhile. Exit status 1 if anything is wrong.
    """
    if not audit:
        raise click.UsageError("Say what to verify: mesh verify --audit", click.get_current_context())
    found = talk(target, _verify_there) if target.url else _verify_here(target.data, key)
    if as_json:
        echo_json(asdict(found))
    else:
        _report(found)
    if found.faults:
        raise click.exceptions.Exit(1)


async def _verify_there(mesh: Connection) -> Verified:
    return await mesh.client.verify_audit()


def _verify_here(data: Path | None, key: str) -> Verified:
    from meshwright.app import database_of
    from meshwright.events.heads import FILE_NAME as HEADS
    from meshwright.events.verify import verify
    from meshwright.settings import load_settings
    from meshwright.sql.sqlite import FILE_NAME

    settings = load_settings(Path(), data_dir=data)
    folders = {path.parent for name in (HEADS, FILE_NAME) for path in settings.data_dir.glob(f"*/{name}")}
    if len(folders) == 1 and not (settings.data_dir / FILE_NAME).exists():  # the front's, on Dapr
        settings = settings.having(data_dir=folders.pop())
    if settings.database is None and not (settings.data_dir / FILE_NAME).is_file():
        raise click.ClickException(f"{settings.data_dir} has no event log; name its folder: --data DIR")
    database = database_of(settings, Path())
    return verify(database, _progress() if sys.stderr.isatty() else None, key=key)


def _progress() -> Callable[[int, int], None]:
    shown = time.monotonic()

    def show(reached: int, last: int) -> None:
        nonlocal shown
        if time.monotonic() - shown > _PROGRESS_SECONDS or reached == last:
            shown = time.monotonic()
            click.echo(f"\r{reached:,} of {last:,} rows", err=True, nl=reached == last)

    return show


def _report(found: Verified) -> None:
    """Say what was proved on stdout, and what is wrong on stderr."""
    from meshwright.events.heads import fingerprint

    click.echo(found.sentence())
    if found.key:
        click.echo(f"heads signed by key {found.key} ({fingerprint(found.key)})")
    if unsigned := 0 if found.faults else found.last - found.signed_seq:
        click.echo(
            f"{unsigned:,} rows behind row {found.signed_seq:,} are chained, and no head vouches for them yet"
        )
    if found.pruned_seq:
        click.echo(f"rows up to {found.pruned_seq:,} were deleted by age")
    if found.erased:
        click.echo(f"{found.erased:,} payloads were erased, on record")
    for note in found.notes:
        click.echo(note)
    for fault in found.faults:
        click.echo(f"mesh: {fault}", err=True)
    if found.faults:
        click.echo(_REMEDY, err=True)


@click.command()
@click.option("--requester", metavar="NAME", help="Of the tasks that somebody asked for.")
@click.option("--thread", metavar="ID", help="Of the tasks of a thread.")
@click.option("--task", metavar="ID", help="Of one task.")
@yes_option
@mesh_options
def erase(target: Target, requester: str | None, thread: str | None, task: str | None, yes: bool) -> None:
    """Erase the contents of tasks for good.

    What was asked, said and answered in them goes, with all that they delegated. That the tasks ran,
    when, for whom and at what cost stays; the event log still verifies.
    """
    chosen = {"requested_by": requester, "thread_id": thread, "task_id": task}
    given = {name: value for name, value in chosen.items() if value is not None}
    if len(given) != 1:
        usage = "Name one of --requester NAME, --thread ID and --task ID"
        raise click.UsageError(usage, click.get_current_context())
    if not yes:
        [(name, value)] = given.items()
        confirm(f"This erases the contents of all tasks with {name} {value!r}, for good.")

    async def erase_there(mesh: Connection) -> tuple[int, int]:
        return await mesh.client.erase(**given)

    tasks, events = talk(target, erase_there, need="change")
    click.echo(f"erased the contents of {tasks:,} {'task' if tasks == 1 else 'tasks'}, of {events:,} events")


@click.group(no_args_is_help=False)
def secrets() -> None:
    """Manage the keys that encrypt stored secrets.

    They are in secret.key of the data folder, newest first, or in the setting secrets.keys.
    """


@secrets.command()
@mesh_options
def rotate(target: Target) -> None:
    """Make a new key and encrypt all stored secrets with it.

    Older keys stay in secret.key, for copies of the data; you may remove their lines. With the setting
    secrets.keys, put the new key first there, start the mesh again, and then run this.
    """

    async def renew(mesh: Connection) -> int:
        return await mesh.client.rotate_secrets()

    renewed = talk(target, renew, need="change")
    click.echo(
        f"{renewed} stored {'secret is' if renewed == 1 else 'secrets are'} encrypted with the newest key"
    )


@secrets.command("new-key")
def print_key() -> None:
    """Print a new key for the setting secrets.keys."""
    from meshwright.core.cipher import new_key

    click.echo(new_key())
