"""Writes all that a wheel rests on beside it, as CycloneDX 1.6: `python tools/sbom.py WHEEL`.

All of it is in the locks: what is always installed, and what extras bring (`scope` optional), each with
its hashes and what asked for it. The same wheel and the same locks give the same bytes.
"""

import hashlib
import json
import re
import sys
import uuid
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
OURS = "meshwright"
HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")
PIN = re.compile(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)")
ASKED = re.compile(r"^    #(?: via)? +([A-Za-z0-9._-]+)", re.MULTILINE)


class Pin(NamedTuple):
    """A release in a lock, the hashes of its files, and the packages that asked for it."""

    name: str
    version: str
    hashes: tuple[str, ...]
    asked_by: frozenset[str]

    @property
    def purl(self) -> str:
        return f"pkg:pypi/{self.name}@{self.version}"


def main(arguments: list[str]) -> None:
    if len(arguments) != 1 or not arguments[0].endswith(".whl"):
        sys.exit("usage: python tools/sbom.py WHEEL")
    wheel = Path(arguments[0])
    try:
        content = wheel.read_bytes()
    except OSError as error:
        sys.exit(f"{wheel} cannot be read: {error.strerror}; make sbom builds it first")
    version = wheel.name.split("-")[1]
    target = wheel.with_name(f"{OURS}-{version}.cdx.json")
    target.write_text(json.dumps(bill(version, hashlib.sha256(content).hexdigest()), indent=2) + "\n")
    print(target)


def bill(version: str, digest: str) -> dict[str, Any]:
    """The whole document, for a wheel of that digest."""
    needed = {pin.name for pin in pins("default")}
    found = {pin.name: pin for lock in ("default", "all") for pin in pins(lock)}
    ours = f"pkg:pypi/{OURS}@{version}"
    refs = {OURS: ours} | {name: pin.purl for name, pin in found.items()}
    rests_on: dict[str, list[str]] = {ref: [] for ref in refs.values()}
    for pin in found.values():
        for asker in pin.asked_by:
            rests_on[refs[asker]].append(pin.purl)
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, f'{ours}#{digest}')}",
        "version": 1,
        "metadata": {
            "component": {
                "type": "application",
                "bom-ref": ours,
                "name": OURS,
                "version": version,
                "purl": ours,
                "licenses": [{"license": {"id": "Apache-2.0"}}],
                "hashes": [{"alg": "SHA-256", "content": digest}],
            }
        },
        "components": [component(found[name], name in needed) for name in sorted(found)],
        "dependencies": [{"ref": ref, "dependsOn": sorted(on)} for ref, on in sorted(rests_on.items())],
    }


def pins(lock: str) -> Iterator[Pin]:
    """The releases of a lock, each from the lines that follow its name."""
    text = (ROOT / "requirements" / f"{lock}.txt").read_text()
    for block in re.split(r"\n(?=[A-Za-z0-9])", text):
        name, version = PIN.findall(block)[0]
        asked = {asker for asker in ASKED.findall(block) if asker not in ("-c", "via")}
        yield Pin(name, version, tuple(HASH.findall(block)), frozenset(asked))


def component(pin: Pin, is_needed: bool) -> dict[str, Any]:
    hashes = [{"alg": "SHA-256", "content": digest} for digest in pin.hashes]
    place = f"https://pypi.org/project/{pin.name}/{pin.version}/"
    found = {
        "type": "library",
        "bom-ref": pin.purl,
        "name": pin.name,
        "version": pin.version,
        "scope": "required" if is_needed else "optional",
        "purl": pin.purl,
        "externalReferences": [{"type": "distribution", "url": place, "hashes": hashes}],
    }
    return found | ({"licenses": [licence]} if (licence := licence_of(pin)) else {})


def licence_of(pin: Pin) -> dict[str, Any] | None:
    """What an installed package says of its licence; None for one that is not installed here."""
    try:
        said = metadata(pin.name)
    except PackageNotFoundError:
        return None
    if expression := said.get("License-Expression"):
        return {"expression": expression}
    kinds = [
        kind for kind in said.get_all("Classifier", []) if kind.startswith("License :: OSI Approved :: ")
    ]
    name = kinds[0].rpartition(" :: ")[2] if kinds else (said.get("License") or "").partition("\n")[0]
    return {"license": {"name": name}} if name else None


if __name__ == "__main__":
    main(sys.argv[1:])
