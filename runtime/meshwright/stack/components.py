"""The folder of component files: the project's own, else the one that comes with Meshwright."""

from __future__ import annotations

from pathlib import Path

from meshwright.errors import ConfigError
from meshwright.fleet import PACKAGED, project_file

NAME = Path("components")
MARK = "state.yaml"
"""A folder of this name without it belongs to something else."""
NEEDED = (
    MARK,
    "env.yaml",
    "config.yaml",
    "loopback.yaml",
    "resiliency.yaml",
    *(f"{bus}-bus/{name}.yaml" for bus in ("mqtt", "redis") for name in ("bus", "views")),
    "mosquitto/mosquitto.conf",
    "redis/redis.conf",
)


def components_of(project: Path) -> Path:
    """The folder that holds everything in `NEEDED`. Raises ConfigError where something is missing."""
    own = project / NAME
    folder = (own if (own / MARK).exists() else project_file(PACKAGED, NAME)).absolute()
    missing = [name for name in NEEDED if not (folder / name).exists()]
    if missing:
        raise ConfigError(
            f"{missing[0]} is missing",
            path=str(folder),
            remedy="a project's components folder has to hold all that the one of Meshwright holds",
        )
    return folder
