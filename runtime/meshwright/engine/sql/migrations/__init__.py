"""The steps that make the mesh's tables, and what applies the steps of any component."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.resources.abc import Traversable
from typing import Any, ClassVar, NamedTuple, Protocol

from meshwright.core.errors import StoreTooNew, StoreTooOld

MESH = "mesh"
"""The component whose tables are the mesh's own."""
_CREATE_VERSIONS = (
    "CREATE TABLE IF NOT EXISTS component_versions (component TEXT PRIMARY KEY, version INTEGER)"
)
_SELECT_VERSION = "SELECT version FROM component_versions WHERE component = ?"


class SqlConnection(Protocol):
    """A session of the database, as what looks after its tables needs it."""

    dialect: ClassVar[Any]

    def execute(self, statement: str, values: Sequence[Any] = ()) -> Any:
        """Run one statement."""
        ...

    def script(self, text: str) -> None:
        """Run several statements, all or nothing."""
        ...

    def close(self) -> None:
        """Close the connection."""
        ...


def create_versions(session: SqlConnection) -> None:
    """Create the table of versions, which the other functions read, unless it is there."""
    session.execute(_CREATE_VERSIONS)


def upgrade(session: SqlConnection, component: str, folder: Traversable, location: str) -> None:
    """Apply the steps of a component that the database has not seen; raises as `pending_upgrade` does."""
    steps = migration_steps(folder, session.dialect)
    version = _checked_version(session, component, steps, location)
    for script in _scripts(component, steps, version):
        session.script(script)


def creation_scripts(component: str, folder: Traversable, dialect: str) -> list[str]:
    """All steps of a component, for a database that has none of its tables."""
    return _scripts(component, migration_steps(folder, dialect), 0)


class Upgrade(NamedTuple):
    """The tables of a component that a start brings from one version to another."""

    component: str
    before: int
    after: int

    def __str__(self) -> str:
        return f"{self.component} {self.before} to {self.after}"


def pending_upgrade(
    session: SqlConnection, component: str, folder: Traversable, location: str
) -> Upgrade | None:
    """The upgrade that `upgrade` makes of tables that are there; new tables need none.

    Raises StoreTooNew for a version above the last step. A component may drop the steps of versions that
    nobody uses any more: raises StoreTooOld for a version below the first one that is left.
    """
    steps = migration_steps(folder, session.dialect)
    version, latest = _checked_version(session, component, steps, location), max(steps, default=0)
    return Upgrade(component, version, latest) if 0 < version < latest else None


def migration_steps(folder: Traversable, dialect: str) -> dict[int, str]:
    """The SQL files of a folder by number: `0001_name.sql` for both databases, `0001_name.sqlite.sql` or
    `0001_name.postgres.sql` for one."""
    steps: dict[int, str] = {}
    for file in folder.iterdir():
        name, *kind = file.name.removesuffix(".sql").split(".")
        if file.name.endswith(".sql") and kind in ([], [dialect]):
            steps[int(name.partition("_")[0])] = file.read_text()
    return steps


def _checked_version(session: SqlConnection, component: str, steps: Mapping[int, str], location: str) -> int:
    version = _version(session, component)
    first, latest = min(steps, default=0), max(steps, default=0)
    owner = "" if component == MESH else f" of {component}"
    if version > latest:
        raise StoreTooNew(
            f"{location} has schema version {version}{owner}, this Meshwright knows {latest}",
            remedy="upgrade Meshwright, or choose another database: --data DIR",
        )
    if 0 < version < first:
        raise StoreTooOld(
            f"{location} has schema version {version}{owner}, this Meshwright reads {first} and newer",
            remedy="delete it, or choose another database: --data DIR",
        )
    return version


def _scripts(component: str, steps: Mapping[int, str], version: int) -> list[str]:
    """The steps behind a version, each with what records it."""
    return [
        f"{script}\n{_set_version(component, number)}"
        for number, script in sorted(steps.items())
        if number > version
    ]


def _version(session: SqlConnection, component: str) -> int:
    row = session.execute(_SELECT_VERSION, (component,)).fetchone()
    return row[0] if row else 0


def _set_version(component: str, version: int) -> str:
    return (
        f"INSERT INTO component_versions VALUES ('{component}', {version:d}) "  # noqa: S608 a name in code
        "ON CONFLICT (component) DO UPDATE SET version = excluded.version;"
    )
