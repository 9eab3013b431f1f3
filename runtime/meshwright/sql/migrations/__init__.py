"""The steps that make the mesh's tables, and what applies the steps of any component."""

from __future__ import annotations

from importlib.resources.abc import Traversable
from typing import TYPE_CHECKING

from meshwright.core.errors import StoreTooNew

if TYPE_CHECKING:
    from meshwright.sql.database import Session

MESH = "mesh"
"""The component whose tables are the mesh's own."""
_CREATE_VERSIONS = (
    "CREATE TABLE IF NOT EXISTS component_versions (component TEXT PRIMARY KEY, version INTEGER)"
)
_SELECT_VERSION = "SELECT version FROM component_versions WHERE component = ?"


def upgrade(session: Session, component: str, folder: Traversable, location: str) -> None:
    """Apply the steps of a component that the database has not seen. Raises StoreTooNew."""
    steps = migration_steps(folder, session.dialect)
    version = _version(session, component)
    latest = max(steps, default=0)
    if version > latest:
        owner = "" if component == MESH else f" of {component}"
        raise StoreTooNew(
            f"{location} has schema version {version}{owner}, this Meshwright knows {latest}",
            remedy="upgrade Meshwright, or choose another database: --data DIR",
        )
    for number, script in sorted(steps.items()):
        if number > version:
            session.script(f"{script}\n{_set_version(session, component, number)}")


def migration_steps(folder: Traversable, dialect: str) -> dict[int, str]:
    """The SQL files of a folder by number: `0001_name.sql` for both databases, `0001_name.sqlite.sql` or
    `0001_name.postgres.sql` for one."""
    steps: dict[int, str] = {}
    for file in folder.iterdir():
        name, *kind = file.name.removesuffix(".sql").split(".")
        if file.name.endswith(".sql") and kind in ([], [dialect]):
            steps[int(name.partition("_")[0])] = file.read_text()
    return steps


def _version(session: Session, component: str) -> int:
    session.execute(_CREATE_VERSIONS)
    row = session.execute(_SELECT_VERSION, (component,)).fetchone()
    version = row[0] if row else 0
    if component == MESH and session.dialect == "sqlite":  # where it was before components had versions
        version = max(version, session.execute("PRAGMA user_version").fetchone()[0])
    return version


def _set_version(session: Session, component: str, version: int) -> str:
    statement = (
        f"INSERT INTO component_versions VALUES ('{component}', {version:d}) "  # noqa: S608 a name in code
        "ON CONFLICT (component) DO UPDATE SET version = excluded.version;"
    )
    if component == MESH and session.dialect == "sqlite":
        statement += f" PRAGMA user_version = {version:d};"  # what an older Meshwright looks at
    return statement
