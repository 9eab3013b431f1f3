"""A task as one document that can be sent to others: as data, or as a page without scripts."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from html import escape
from itertools import islice
from typing import Any

from meshwright.agents.run.transcript import Transcript
from meshwright.core.display import Document
from meshwright.core.payloads import redacted
from meshwright.core.redaction import redact_data
from meshwright.engine.work.record import TaskView
from meshwright.money.task_costs import TaskTree

_MAX_STEPS = 5_000
_MAX_CHARS = 100_000  # of each text
_CONTENTS = ("arguments", "reply", "result")
_FACTS = ("task_id", "status", "capability", "requested_by", "created_at")
_FACTS_OF_END = ("agent_id", "completed_at", "cost_usd", "model", "prompt")
_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Task {id}</title>
<style>
:root {{ color-scheme: light dark }}
body {{ font: 14px/1.45 system-ui, sans-serif; max-width: 1000px; margin: 24px auto; padding: 0 16px }}
pre {{ white-space: pre-wrap; overflow-wrap: anywhere; background: #8882; padding: 8px }}
td, th {{ text-align: left; padding: 2px 12px 2px 0; vertical-align: top }}
summary {{ cursor: pointer; padding: 3px 0 }}
</style>
<h1>Task {id}</h1>
{body}
</html>
"""


def export_task(
    view: TaskView, transcripts: Sequence[Transcript], tree: TaskTree, *, contents: bool
) -> Document:
    """A task with its steps, up to 5,000, and all that it delegated, as plain data with secrets redacted.

    Without `contents` it has the facts alone: who, when, how long, and at what cost.
    """
    steps = ((transcript, path) for transcript in transcripts for path in transcript.paths)
    return redact_data(
        {
            "task": (view if contents else redacted(view)).model_dump(mode="json"),
            "steps": [_step(transcript, path, contents) for transcript, path in islice(steps, _MAX_STEPS)],
            "tree": tree.model_dump(mode="json")["items"],
        }
    )


def render_page(export: Document) -> str:
    """The same as a page of HTML, which loads and runs nothing."""
    task, tree = export["task"], export["tree"]
    outcome = task["outcome"] or {}
    error = outcome.get("error")
    facts = [(name, task[name]) for name in _FACTS] + [(name, outcome.get(name)) for name in _FACTS_OF_END]
    parts = [
        _table((name.replace("_", " "), value) for name, value in facts if value is not None),
        _section("Request", _words(task["payload"])),
        _section("Error", error and ": ".join(filter(None, (error["type"], error["message"])))),
        _section("Result", _words(outcome.get("result"))),
        f"<h2>Delegated</h2>{_table(_rows(tree))}" if len(tree) > 1 else "",
        "<h2>Steps</h2>",
        *map(_shown_step, export["steps"]),
    ]
    return _PAGE.format(id=escape(task["task_id"]), body="\n".join(filter(None, parts)))


def _step(transcript: Transcript, path: str, contents: bool) -> Document:
    if contents:
        return transcript.view(path, max_chars=_MAX_CHARS, whole=False).model_dump(mode="json")
    return {**transcript.summary(path).model_dump(mode="json"), "summary": "", "error": None}


def _rows(tree: Sequence[Document]) -> Iterator[tuple[Any, ...]]:
    yield "task", "agent", "state", "own cost", "with those below"
    for node in tree:
        indent = "\N{NO-BREAK SPACE}" * 3 * node["depth"]
        yield (
            f"{indent}{node['task_id']}",
            node["agent_id"],
            node["status"],
            node["cost_usd"],
            node["tree_cost_usd"],
        )


def _shown_step(step: Document) -> str:
    cost = step["cost_usd"] and f"${step['cost_usd']}"
    title = " ".join(filter(None, (step["kind"], step["name"], step["status"], cost, step["summary"])))
    about = [step["prompt"] and f"prompt {step['prompt']}", step["error"]]
    parts = [
        f"<summary>{step['attempt']}/{escape(step['path'])} {escape(title)}</summary>",
        *(f"<p>{escape(text)}</p>" for text in about if text),
        *(f"<h4>{escape(name)}</h4>{_pre(value)}" for name, value in _said(step) if value),
    ]
    return f"<details>{''.join(parts)}</details>"


def _said(step: Document) -> Iterator[tuple[str, Any]]:
    for message in step.get("messages", ()):
        yield str(message.get("role")), message.get("content") or message.get("tool_calls")
    for name in _CONTENTS:
        yield name, step.get(name)


def _table(rows: Iterable[tuple[Any, ...]]) -> str:
    cells = ("".join(f"<td>{escape('' if cell is None else str(cell))}" for cell in row) for row in rows)
    return f"<table>{''.join(f'<tr>{row}' for row in cells)}</table>"


def _section(title: str, value: Any) -> str:
    return f"<h2>{title}</h2>{_pre(value)}" if value else ""


def _words(value: Any) -> Any:
    """The text of a payload or a result that has nothing else; otherwise all of it."""
    return value["text"] if isinstance(value, dict) and value.keys() == {"text"} else value


def _pre(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, indent=2)
    return f"<pre>{escape(text)}</pre>"
