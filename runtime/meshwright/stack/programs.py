"""Where the programs and component files are that a mesh on Dapr rests on."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from meshwright.agents.loader import PACKAGED, project_file
from meshwright.errors import ConfigError, ServiceFailed

_BUILD = Path(__file__).parents[3] / "tools" / "dapr" / "build"
_SYSTEM_FOLDERS = ("/usr/sbin", "/usr/local/sbin", "/opt/homebrew/sbin")  # where brokers are, off most PATHs
DAPR = "make dapr builds it in a checkout, dapr init --slim installs it, MESH_DAPR_BIN names its folder"
REMEDIES = {
    "daprd": DAPR,
    "placement": DAPR,
    "scheduler": DAPR,
    "mosquitto": "apt install mosquitto, or set MESH_BROKER_URL to a broker that runs",
    "redis-server": "apt install redis-server, or set MESH_REDIS_HOST to a server that runs",
}
_UNKNOWN_VERSION = (999,)
COMPONENTS = Path("components")
MARK = "state.yaml"
"""A folder named `components` without it belongs to something else."""
_NEEDED = (
    MARK,
    "env.yaml",
    "config.yaml",
    "loopback.yaml",
    "resiliency.yaml",
    *(f"{bus}-bus/{name}.yaml" for bus in ("mqtt", "redis") for name in ("bus", "views")),
    "mosquitto/mosquitto.conf",
    "redis/redis.conf",
)


def require_sdk() -> None:
    """Raise ConfigError where the Dapr SDK is not installed, without importing it."""
    if find_spec("dapr") is None or find_spec("grpc") is None:
        raise ConfigError(
            "a mesh on Dapr needs the Dapr SDK, which is not installed",
            remedy="In a checkout of Meshwright: pip install -e '.[dapr]'",
            field="host",
        )


def find_program(name: str, dapr_bin: Path | None) -> Path:
    """The path of a program, Dapr's own in `dapr_bin` where that is named.

    Raises ServiceFailed, with what to install.
    """
    path = os.environ.get("PATH", os.defpath)
    if REMEDIES[name] is not DAPR:
        folders = [path, *_SYSTEM_FOLDERS]
    elif dapr_bin is not None:
        folders = [str(dapr_bin)]
    else:
        folders = [*_built(), path, str(Path.home() / ".dapr" / "bin")]
    for folder in folders:
        if found := shutil.which(name, path=folder):
            return Path(found).absolute()
    where = f"in {dapr_bin}" if folders == [str(dapr_bin)] else "on this machine"
    raise ServiceFailed(f"there is no {name} {where}", remedy=REMEDIES[name])


def _built() -> list[str]:
    """The folder that `make dapr` has built into, in a checkout where it has."""
    if not _BUILD.exists():
        return []
    where = subprocess.run(
        [sys.executable, str(_BUILD), "--where"], capture_output=True, text=True, check=False, timeout=30
    )
    return [] if where.returncode else [where.stdout.strip()]


def version_of(daprd: Path) -> tuple[int, ...]:
    """The version of a daprd, such as (1, 18, 2); a build without one, such as `edge`, counts as new."""
    output = subprocess.run([daprd, "--version"], capture_output=True, text=True, check=False, timeout=30)
    numbers = re.match(r"v?(\d+)\.(\d+)\.(\d+)", output.stdout.strip())
    return tuple(map(int, numbers.groups())) if numbers else _UNKNOWN_VERSION


def components_of(project: Path) -> Path:
    """The folder of component files: the project's own, else Meshwright's.

    Raises ConfigError where one of `_NEEDED` is missing.
    """
    own = project / COMPONENTS
    folder = (own if (own / MARK).exists() else project_file(PACKAGED, COMPONENTS)).absolute()
    missing = [name for name in _NEEDED if not (folder / name).exists()]
    if missing:
        raise ConfigError(
            f"{missing[0]} is missing",
            path=str(folder),
            remedy="a project's components folder has to hold all files of Meshwright's",
        )
    return folder
