"""The default install: what the lock names, as it lies on the disk."""

from __future__ import annotations

import re
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement

from benchmarks.bench import Bench
from benchmarks.figures import Row
from benchmarks.sides import ROOT

LOCK = ROOT / "requirements" / "default.txt"
MAX_MB, MAX_PACKAGES = 100.0, 45


async def measure(bench: Bench) -> list[Row]:
    installed = [found for name in locked() if (found := find(name)) is not None]
    megabytes = sum(map(size_of, installed)) / 1e6
    return [
        Row(
            "default install",
            f"{megabytes:.0f} MB, {len(installed) + 1} packages",
            target="<= 100 MB, <= 45 packages",
            met=megabytes <= MAX_MB and len(installed) + 1 <= MAX_PACKAGES,
            note="the packages of requirements/default.txt as installed here, with their bytecode; "
            "meshwright itself counts as one",
        )
    ]


def locked() -> list[str]:
    """The packages of the lock that this system needs."""
    lines = re.sub(r"\\\n", " ", LOCK.read_text()).splitlines()
    pinned = (line.partition(" --hash")[0].partition(" #")[0].strip() for line in lines)
    wanted = [Requirement(line) for line in pinned if line and not line.startswith(("#", "--"))]
    return [each.name for each in wanted if each.marker is None or each.marker.evaluate()]


def find(name: str) -> Distribution | None:
    try:
        return distribution(name)
    except PackageNotFoundError:
        return None


def size_of(package: Distribution) -> int:
    """The bytes of a package's files, and of the bytecode made of them."""
    return sum(bytes_of(Path(str(file.locate()))) for file in package.files or ())


def bytes_of(path: Path) -> int:
    if path.suffix == ".pyc" or not path.is_file():
        return 0  # counted with its source
    cached = path.parent.glob(f"__pycache__/{path.stem}.*.pyc") if path.suffix == ".py" else ()
    return path.stat().st_size + sum(each.stat().st_size for each in cached)
