"""The report of a run: the file that keeps it, and the lines that a person reads."""

from __future__ import annotations

import hashlib
import json
import platform
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import meshwright
from meshwright.core.errors import InvalidInput
from meshwright.engine.events.heads import KEY_NAME, Head, Signer
from meshwright.mesh.orchestration.acceptance import FINAL
from meshwright.parts.proving.oracle import REPEATED, Evidence, RunCosts, parse_outcome
from meshwright.parts.proving.paid import PaidReport
from meshwright.parts.proving.trial import FAILOVER, Findings, TrialOptions

_FORMAT = 1
_FAST_COMMIT_SECONDS = 0.0003
_MAX_FILES = 1000
_MAX_LINES = 20
_CUTS = ("connections cut", "broker cut", "acknowledgements lost")
_SHOWN_TRAITS = ("granted QoS", "maximum QoS", "shared subscriptions")
_DURABILITY = ("fsync", "full_page_writes", "synchronous_commit")


def make_report(findings: Findings, options: TrialOptions) -> dict[str, Any]:
    """Return the contents of the file of a run."""
    evidence = findings.evidence
    return {
        "format": _FORMAT,
        "held": not findings.complaints,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "meshwright": meshwright.__version__,
        "digest": package_digest(),
        "python": platform.python_version(),
        "system": platform.platform(),
        "store": {"kind": "postgres" if findings.server else "sqlite", **findings.server},
        "settings": asdict(options),
        "faults": dict(sorted(findings.faults.items())),
        "figures": {
            "tasks_accepted": len(set(evidence.accepted)),
            "tasks_ended_once": _count_ended_once(evidence),
            "statuses": _count_statuses(evidence),
            "steps_repeated": sum(any(words in text for words in REPEATED) for text in findings.complaints),
            "model_calls": evidence.model_calls,
            "usd_off": str(_dollars_off(evidence.money)),
            "commit_seconds": findings.commit_seconds,
        },
        **({} if findings.broker is None else {"broker": findings.broker._asdict()}),
        **({} if findings.paid is None else {"model": _model_fields(findings.paid)}),
        "complaints": list(findings.complaints),
        "not_proved": list(_not_proved(findings)),
    }


def write_report(report: Mapping[str, Any], folder: Path, data: Path) -> Path:
    """Write `prove-DATE.json`, signed if the data folder has a key for heads of the log.

    The signature is a head whose `hash` is the SHA-256 of the report as compact JSON with sorted keys.
    Raises InvalidInput.
    """
    document = dict(report)
    if (data / KEY_NAME).exists():
        head = Head(seq=0, hash=report_hash(report), time=datetime.fromisoformat(report["time"]))
        document["signature"] = Signer(data).sign(head).model_dump(mode="json")
    day = report["time"][:10]
    for number in range(1, _MAX_FILES):
        path = folder / (f"prove-{day}.json" if number == 1 else f"prove-{day}-{number}.json")
        try:
            with path.open("x", encoding="utf-8") as file:
                json.dump(document, file, indent=2, ensure_ascii=False)
                file.write("\n")
        except FileExistsError:
            continue
        except OSError as error:
            raise InvalidInput(
                f"{path} cannot be written: {error.strerror}",
                remedy="Name another folder: --to DIR",
                field="to",
            ) from error
        return path
    raise InvalidInput(f"{folder} has {_MAX_FILES} reports of {day}", remedy="Move some away", field="to")


def report_hash(report: Mapping[str, Any]) -> str:
    """Return the hash that the signature of a report vouches for."""
    unsigned = {name: value for name, value in report.items() if name != "signature"}
    return hashlib.sha256(json.dumps(unsigned, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def read_options(path: Path) -> TrialOptions:
    """Read the settings of a run from its file. Raises InvalidInput."""
    try:
        settings = json.loads(path.read_text("utf-8"))["settings"]
        return TrialOptions(
            minutes=float(settings["minutes"]),
            kills=int(settings["kills"]),
            workers=int(settings["workers"]),
            rate=float(settings["rate"]),
            seed=int(settings["seed"]),
            model=str(settings.get("model", "")),
            budget_usd=str(settings.get("budget_usd", "0")),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InvalidInput(
            f"{path} is no report of mesh prove: {error}", remedy="Name a prove-DATE.json", field="replay"
        ) from None


def report_lines(report: Mapping[str, Any]) -> Iterator[str]:
    """Return the lines of a report for a person."""
    store, settings, figures = report["store"], report["settings"], report["figures"]
    yield f"{_store_line(store)}, {_count(settings['workers'], 'worker')}"
    faults = Counter(report["faults"])
    kills = faults["worker killed"] + faults["writer killed"]
    failovers = f", {_count(faults[FAILOVER], 'failover')}" if faults[FAILOVER] else ""
    yield (
        f"{_count(kills, 'kill')}, {sum(faults[name] for name in _CUTS)} times connections cut, "
        f"{_count(faults['worker frozen'], 'frozen worker')}{failovers}: "
        f"{figures['tasks_accepted']:,} tasks accepted, {figures['tasks_ended_once']:,} ended once, "
        f"{figures['steps_repeated']} steps repeated, ${Decimal(figures['usd_off']):.6f} off"
    )
    if broker := report.get("broker"):
        seen = ", ".join(f"{name} {broker['seen'][name]}" for name in _SHOWN_TRAITS)
        yield f"broker     {broker['address']}: {broker['messages']:,} messages acknowledged; {seen}"
        yield from (f"broker     {note}" for note in broker["notes"])
    if model := report.get("model"):
        failures = "".join(f"; {count:,} failed: {why}" for why, count in model["failures"].items())
        spent = f"at most ${model['usd']} of ${model['budget_usd']}"
        yield f"model      {model['name']}: {_count(model['answered'], 'answer')}, {spent}{failures}"
    for complaint in report["complaints"][:_MAX_LINES]:
        yield f"broke      {complaint}"
    if (more := len(report["complaints"]) - _MAX_LINES) > 0:
        yield f"broke      {more:,} more in the file"
    for sentence in report["not_proved"]:
        yield f"not proved {sentence}"


def _model_fields(paid: PaidReport) -> dict[str, Any]:
    return {**paid._asdict(), "usd": f"{paid.usd:f}", "budget_usd": f"{paid.budget_usd:f}"}


def package_digest() -> str:
    """Return the SHA-256 of the installed package's modules."""
    root = Path(meshwright.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0")
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _count_ended_once(evidence: Evidence) -> int:
    ends = Counter(event.task_id for event in evidence.select_events(*FINAL))
    return sum(ends[task_id] == 1 for task_id in set(evidence.accepted))


def _count_statuses(evidence: Evidence) -> dict[str, int]:
    accepted = set(evidence.accepted)
    outcomes = [parse_outcome(event) for event in evidence.select_events(*FINAL)]
    return dict(Counter(str(outcome.status) for outcome in outcomes if outcome.task_id in accepted))


def _dollars_off(money: RunCosts | None) -> Decimal:
    """The distance of ledger and budget from the price of the calls, with the estimates of cut-off calls."""
    if money is None:
        return Decimal(0)
    excess = money.ledger - money.estimated - money.provider
    return abs(money.budget - money.ledger) + max(Decimal(0), excess, money.provider - money.ledger)


def _not_proved(findings: Findings) -> Iterator[str]:
    seconds = findings.commit_seconds
    if off := [name for name in _DURABILITY if findings.server.get(name) == "off"]:
        yield f"power cuts ({' and '.join(off)} off: a crash of the machine loses what was accepted)"
    elif seconds is not None and seconds < _FAST_COMMIT_SECONDS:
        yield f"power cuts (a commit takes {1000 * seconds:.2f} ms: does this disk lie?)"
    else:
        yield "power cuts (no machine was switched off)"
    if findings.server and not findings.faults.get(FAILOVER):
        standbys = int(findings.server["standbys"])
        yield f"failover ({_count(standbys, 'standby', 'standbys')}, none was promoted)"
    if findings.broker is not None and not findings.broker.messages:
        yield "the broker (it acknowledged no message)"
    if findings.paid is not None and not findings.paid.answered:
        yield f"the model (it answered no call: {', '.join(findings.paid.failures) or 'none was paid for'})"
    if not findings.faults:
        yield "kills (the run was too short for one)"


def _store_line(store: Mapping[str, str]) -> str:
    if store["kind"] == "sqlite":
        return "SQLite"
    pooler = "" if store["pooler"] == "no" else f", pooler {store['pooler']}"
    standbys = int(store["standbys"])
    return f"PostgreSQL {store['server_version']} ({_count(standbys, 'standby', 'standbys')}{pooler})"


def _count(count: int, one: str, many: str = "") -> str:
    return f"{count:,} {one if count == 1 else many or f'{one}s'}" if count else f"no {many or f'{one}s'}"
