"""The last test of each deployment, kept in the data folder for `mesh models` and `mesh doctor`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import meshwright
from meshwright.core.display import age
from meshwright.core.part import Caution
from meshwright.engine.sql.folder import make_private, read_private, write_private

_FILE_NAME = "models.json"
_COMMAND = "mesh models test"


def keep_results(folder: Path, results: Iterable[Mapping[str, Any]], answers: str) -> None:
    """Note the result of each deployment's test; `answers` is the name of the model they are behind."""
    common = {
        "at": datetime.now(UTC).isoformat(),
        "meshwright": meshwright.__version__,
        "answers": _without_reason(answers),
    }
    states = {
        result["deployment"]: {
            "status": "ok" if result["ok"] else result["error"]["type"],
            **common,
            "findings": result.get("findings", []),
        }
        for result in results
    }
    path = make_private(folder) / _FILE_NAME
    write_private(path, json.dumps({**read_results(folder), **states}, ensure_ascii=False, indent=2))


def read_results(folder: Path) -> dict[str, Any]:
    """Return the last results by deployment; none if no test was made here, or the file is not ours."""
    try:
        states = json.loads(read_private(folder / _FILE_NAME))
    except (OSError, ValueError):
        return {}
    return states if isinstance(states, dict) else {}


def describe_model(answers: str, folder: Path, where: str = "") -> str:
    """Return the sentence of `mesh doctor` on a model and the last test of its deployments: a Caution where
    one failed or something is amiss there, or this is another version."""
    test = _describe_last_test(folder, answers)
    sentence = f"{answers}{where}; {test}"
    return Caution(sentence) if isinstance(test, Caution) else sentence


def _describe_last_test(folder: Path, answers: str) -> str:
    states = [
        (name, state)
        for name, state in read_results(folder).items()
        if isinstance(state, dict) and state.get("answers") == _without_reason(answers)
    ]
    if not states:
        return f"not proved here: {_COMMAND}"
    last = max(str(state["at"]) for _, state in states)
    when = f"{age(last)} ago"
    if failed := [f"{name} {state['status']}" for name, state in states if state["status"] != "ok"]:
        return Caution(f"failed here {when} ({', '.join(failed)}): {_COMMAND}")
    if any(state.get("meshwright") != meshwright.__version__ for _, state in states):
        return Caution(f"proved here {when} with another version of Meshwright: {_COMMAND}")
    remarks = {
        f"{finding['name']} {finding['behaviour']}. {finding['remedy']}"
        for _, state in states
        for finding in state.get("findings", ())
        if finding["remedy"]
    }
    proved = f"proved here {when}"
    return Caution(f"{proved}. {'. '.join(sorted(remarks))}") if remarks else proved


def _without_reason(answers: str) -> str:
    """The name of a model without why it was chosen, which may differ between shells."""
    return answers.partition(" (")[0]
