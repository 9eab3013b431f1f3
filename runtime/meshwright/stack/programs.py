"""Where the programs are that a mesh on Dapr rests on."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from meshwright.errors import ConfigError, ServiceFailed

BUILD = Path(__file__).parents[3] / "tools" / "dapr" / "build"
SYSTEM_FOLDERS = ("/usr/sbin", "/usr/local/sbin", "/opt/homebrew/sbin")  # where brokers are, off most PATHs
DAPR = "make dapr builds it in a checkout, dapr init --slim installs it, MESH_DAPR_BIN names its folder"
REMEDIES = {
    "daprd": DAPR,
    "placement": DAPR,
    "scheduler": DAPR,
    "mosquitto": "apt install mosquitto, or set MESH_BROKER_URL to a broker that runs",
    "redis-server": "apt install redis-server, or set MESH_REDIS_HOST to a server that runs",
}

UNKNOWN_VERSION = (999,)


def require_sdk() -> None:
    """Raise ConfigError where the Dapr SDK is not installed, without importing it."""
    if find_spec("dapr") is None or find_spec("grpc") is None:
        raise ConfigError(
            "a mesh on Dapr needs the Dapr SDK, which is not installed",
            remedy="In a checkout of Meshwright: pip install -e '.[dapr]'",
            field="host",
        )


@dataclass(frozen=True, slots=True)
class Programs:
    """Finds programs. `dapr_bin` is the folder of Dapr's own; where it is None they are looked for."""

    dapr_bin: Path | None = None

    def find(self, name: str) -> Path:
        """The path of a program. Raises ServiceFailed, with what to install."""
        folders = list(self._folders(name))
        for folder in folders:
            found = shutil.which(name, path=folder)
            if found:
                return Path(found).absolute()
        where = f"in {self.dapr_bin}" if folders == [str(self.dapr_bin)] else "on this machine"
        raise ServiceFailed(f"there is no {name} {where}", remedy=REMEDIES[name])

    def _folders(self, name: str) -> Iterator[str]:
        """Folders, and lists of them as PATH has them, the best first."""
        if REMEDIES[name] is not DAPR:
            yield from (os.environ.get("PATH", os.defpath), *SYSTEM_FOLDERS)
        elif self.dapr_bin is not None:
            yield str(self.dapr_bin)
        else:
            yield from _built()
            yield from (os.environ.get("PATH", os.defpath), str(Path.home() / ".dapr" / "bin"))


def _built() -> Sequence[str]:
    """The folder that `make dapr` has built into, where this is a checkout and it has."""
    if not BUILD.exists():
        return []
    where = subprocess.run(
        [sys.executable, str(BUILD), "--where"], capture_output=True, text=True, check=False, timeout=30
    )
    return [] if where.returncode else [where.stdout.strip()]


def version_of(daprd: Path) -> tuple[int, ...]:
    """The version of a daprd, such as (1, 18, 2); a build that names none, such as `edge`, counts as new."""
    told = subprocess.run([daprd, "--version"], capture_output=True, text=True, check=False, timeout=30)
    numbers = re.match(r"v?(\d+)\.(\d+)\.(\d+)", told.stdout.strip())
    return tuple(map(int, numbers.groups())) if numbers else UNKNOWN_VERSION
