"""`mesh bridge`: what Claude Code does, as events in a SQLite file and at an MQTT broker."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import click

from meshwright.console.nouns import Noun
from meshwright.console.options import json_option, limit_option
from meshwright.console.output import show
from meshwright.core.display import Column, Document, local_time
from meshwright.core.errors import ConfigError

_FILE = Path(".claude") / "settings.json"
_COLUMNS = (
    Column("time", "time", local_time),
    Column("job", "job_id", cut=2, from_end=True),
    Column("event", "event"),
    Column("status", "status"),
    Column("branch", "branch", cut=3),
    Column("model", "model", cut=1),
)

_user_option = click.option("--user", is_flag=True, help="For every project of this user, not this folder.")


_FLUSH_SECONDS = 15.0  # that another process may take to reach the broker


def _check_url(url: str) -> None:
    parts = urlsplit(url)
    try:
        is_url = parts.scheme in ("mqtt", "mqtts") and parts.hostname and parts.port != 0
    except ValueError:  # the port is no number up to 65,535
        is_url = False
    if url and not is_url:
        raise click.BadParameter(
            "is no URL like mqtt://127.0.0.1:1883 or mqtts://broker", param_hint="--mqtt"
        )
    if url and parts.username is not None:
        raise click.BadParameter(
            "has credentials: name them by --username and --password", param_hint="--mqtt"
        )


@contextmanager
def _usable(folder: Path) -> Iterator[None]:
    """Say what is wrong with the files of the folder, in place of a traceback."""
    import sqlite3

    from meshwright.edges.bridge.sender import SETTINGS, STORE

    try:
        yield
    except sqlite3.Error as error:
        remedy = (
            "Free space on the disk; a damaged file can be moved away, and the next event makes a new one"
        )
        raise ConfigError(f"{folder / STORE} cannot be used: {error}", remedy=remedy) from None
    except (OSError, ValueError) as error:
        remedy = "mesh bridge install writes it again"
        raise ConfigError(f"{folder / SETTINGS} cannot be read: {error}", remedy=remedy) from None


def _settings_file(user: bool) -> Path:
    return (Path.home() if user else Path()) / _FILE


@click.group(cls=Noun)
def bridge() -> None:
    """Report what Claude Code does to SQLite and MQTT.

    `mesh bridge install` writes a hook into the settings of Claude Code. Each of its events is stored, with
    branch, worktree, model and job, and published below claude/progress while the broker can be reached.
    """


@bridge.command("install")
@_user_option
@click.option(
    "--mqtt", "url", default="", metavar="URL", help="The broker, like mqtt://127.0.0.1:1883 or mqtts://..."
)
@click.option("--username", default="", help="The user at the broker.")
@click.option("--password", default="", metavar="REF", help="Its password: env:NAME or file:/path.")
@click.option(
    "--ca-file", default="", metavar="FILE", help="The authority that signed the broker's certificate."
)
@click.option("--prefix", default="claude/progress", show_default=True, help="First part of the topics.")
def _install(user: bool, url: str, username: str, password: str, ca_file: str, prefix: str) -> None:
    """Write the hook into .claude/settings.json."""
    from meshwright.edges.bridge import installing
    from meshwright.edges.bridge.sender import BridgeSettings

    _check_url(url)
    if password and not password.startswith(("env:", "file:/")):
        raise click.BadParameter(
            "names where the password is: env:NAME or file:/path", param_hint="--password"
        )
    if set(prefix) & set("+#\0") or not prefix.strip("/"):
        raise click.BadParameter("is no topic: it may not have + or #", param_hint="--prefix")
    file, folder = _settings_file(user), installing.default_folder()
    installing.install(file, folder, BridgeSettings(url, username, password, ca_file, prefix))
    where = f"published at {url} below {prefix}" if url else "published nowhere: name a broker with --mqtt"
    click.echo(f"{file} has the hook; events are stored in {folder}, {where}")


@bridge.command("uninstall")
@_user_option
def _uninstall(user: bool) -> None:
    """Take the hook out of .claude/settings.json; stored events stay."""
    from meshwright.edges.bridge import installing

    file = _settings_file(user)
    click.echo(f"{file} {'has the hook no more' if installing.uninstall(file) else 'had no hook'}")


@bridge.command("status")
def _status() -> None:
    """Show where the hook is installed, and how many events wait for the broker."""
    from meshwright.edges.bridge import installing
    from meshwright.edges.bridge.sender import open_store, read_settings

    for user in (False, True):
        file = _settings_file(user)
        click.echo(f"{file}: {'installed' if installing.is_installed(file) else 'not installed'}")
    folder = installing.default_folder()
    stored = waiting = 0
    with _usable(folder):
        url = read_settings(folder).url
        if folder.is_dir():
            with closing(open_store(folder)) as store:
                query = "SELECT count(*), count(*) - count(published_at) FROM claude_events"
                stored, waiting = store.execute(query).fetchone()
    click.echo(f"broker: {url or 'none'}")
    click.echo(f"events: {stored} stored in {folder}, {waiting} of them not published")


@bridge.command("events")
@limit_option(20, 1000)
@json_option
def _events(limit: int, as_json: bool) -> None:
    """Show the last events, oldest first."""
    from meshwright.edges.bridge.installing import default_folder
    from meshwright.edges.bridge.sender import open_store

    folder = default_folder()
    rows: list[Document] = []
    if folder.is_dir():
        with _usable(folder), closing(open_store(folder)) as store:
            query = "SELECT document FROM claude_events ORDER BY time DESC, seq DESC LIMIT ?"
            rows = [json.loads(document) for (document,) in store.execute(query, (limit,))][::-1]
    show(rows, _COLUMNS, as_json=as_json, empty="no events yet; mesh bridge install writes the hook")


@bridge.command("flush")
def _flush() -> None:
    """Publish the events that wait for the broker."""
    from meshwright.edges.bridge.installing import default_folder
    from meshwright.edges.bridge.sender import BrokerUnreachable, hurry, read_settings, send_all

    folder = default_folder()
    with _usable(folder):
        if not folder.is_dir() or not (url := read_settings(folder).url):
            raise click.ClickException("No broker is set: mesh bridge install --mqtt URL")
        try:
            sent, waiting = send_all(folder)
        except BrokerUnreachable as error:
            raise click.ClickException(f"{error}; the events stay, and are published later") from None
        count = hurry(folder, _FLUSH_SECONDS) if waiting else 0
    if count:
        raise click.ClickException(f"At least {count} wait; another process tries to publish them at {url}")
    click.echo("all are published" if waiting else f"{sent} published")
