"""Asks whether what we use has known weaknesses: pip-audit of the locks, govulncheck of the Go modules.

Exit status 0 if all was checked and nothing is known, 1 if something is, 75 if some could not be checked,
as where the data of these programs cannot be reached.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
LOCK = "dev"
"""The lock that holds the releases of all the others."""
GO_MODULES = ("tools/dapr",)
PIP_AUDIT = "pip-audit==2.10.1"
GOVULNCHECK = "golang.org/x/vuln/cmd/govulncheck@v1.9.0"
FOUND, NOT_CHECKED = 1, 75


class Audit(NamedTuple):
    """How one audit ended: what it found, and why it could not check, as far as it could not."""

    found: list[str]
    missing: str = ""


def main() -> int:
    audits = {f"requirements/{LOCK}.txt": of_lock(LOCK)}
    audits |= {module: of_go_module(ROOT / module) for module in GO_MODULES}
    for name, audit in audits.items():
        said = audit.found or [f"NOT CHECKED: {audit.missing}" if audit.missing else "nothing is known"]
        print("\n".join(f"{name}: {line}" for line in said))
    if any(audit.found for audit in audits.values()):
        return FOUND
    return NOT_CHECKED if any(audit.missing for audit in audits.values()) else 0


def of_lock(lock: str) -> Audit:
    """What PyPI knows of the releases in a lock."""
    uv = Path(sys.executable).with_name("uv")
    if not uv.exists():
        return Audit([], "uv runs pip-audit, and is not in .venv")
    options = ["--disable-pip", "--require-hashes", "--progress-spinner=off", "--format=json"]
    command = [uv, "tool", "run", "--from", PIP_AUDIT, "pip-audit", *options]
    path = ROOT / "requirements" / f"{lock}.txt"
    done = subprocess.run([*command, "--requirement", path], capture_output=True, text=True, check=False)
    try:
        releases = json.loads(done.stdout)["dependencies"]
    except ValueError:
        return Audit([], last_line(done.stderr))
    found = [
        f"{release['name']} {release['version']}: {weakness['id']}"
        for release in releases
        for weakness in release.get("vulns", ())
    ]
    skipped = [release["skip_reason"] for release in releases if "skip_reason" in release]
    return Audit(found, f"{len(skipped)} of {len(releases)} releases: {skipped[0]}" if skipped else "")


def of_go_module(folder: Path) -> Audit:
    """What Go's database knows of the packages that a module's programs call."""
    if shutil.which("go") is None:
        return Audit([], "Go, which runs govulncheck, is not on PATH")
    done = subprocess.run(
        ["go", "run", GOVULNCHECK, "./..."], cwd=folder, capture_output=True, text=True, check=False
    )
    if done.returncode == 0:
        return Audit([])
    found = [line for line in done.stdout.splitlines() if line.startswith("Vulnerability #")]
    return Audit(found, "" if found else last_line(done.stderr.replace("exit status 1", "")))


def last_line(text: str) -> str:
    return (text.strip().splitlines() or ["it said nothing"])[-1]


if __name__ == "__main__":
    sys.exit(main())
