"""How agents are shown, and how the events of agents, their prompts and their runs read, with their facts.

Those of runs are here, since the package `run` imports all that a run needs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from meshwright.core.display import (
    Column,
    Document,
    EventWords,
    Resource,
    fault,
    file_line,
    local_time,
    seconds,
    short,
)

FACTS: Mapping[str, str] = {
    "agent.*": "name kind status tasks",
    "prompt.*": "name digest",
    "answer.*": "answered_by",
    "approval.*": "key tool may_answer expires_at decided_by",
    "file.*": "name",
    "limit.*": "limit most setting",
    "calls.refused": "calls most setting",
    "step.*": "name duration_ms",
    "tool.*": "tool ok duration_ms seconds ended changed_by",
    "toolset.*": "name tools",
}
PAYLOADS: Mapping[str, str] = {
    "agent.registered agent.degraded agent.offline agent.recovered agent.unhealthy": "the registration",
    "agent.heartbeat": "the registration: not stored",
    "agent.roll_call": "nothing: a process asks which agents are there, not stored",
    "agent.missing agent.returned": "agent_id, tasks (open ones that wait for it), task_ids (some of them)",
    "agent.code_changed": "agent_id, code, before, tasks (open ones that began with other code), once",
    "approval.requested": "attempt, fence, key, tool, arguments, agent_id, may_answer, expires_at",
    "approval.given approval.denied approval.expired": "attempt, fence, key, tool, decided_by, reason, "
    "arguments",
    "prompt.reloaded": "name, path, digest",
    "prompt.rejected prompt.fallback": "name, path, line, error, remedy: another prompt is used",
    "tool.overran": "tool, seconds, ended: the thread of an abandoned call",
    "toolset.ready toolset.changed": "name, tools (how many)",
    "toolset.degraded": "name, reason",
}


def code_changed(agent_id: str, tasks: int, once: int) -> str:
    """How many open tasks of an agent began with other code, and how many of those did what counts once."""
    open_tasks = "1 open task" if tasks == 1 else f"{tasks} open tasks"
    steps = f"; {once} with steps that are not idempotent" if once else ""
    return f"{open_tasks} of {agent_id} began with other code{steps}"


def missing(agent: Document) -> str:
    """The sentence that an agent is missing, and which tasks wait for it."""
    tasks = agent.get("tasks", 0)
    wait = "1 open task waits for it" if tasks == 1 else f"{tasks:,} open tasks wait for it"
    return f"agent {agent.get('agent_id', '?')} is not loaded here; {wait}: {_some_of(agent)}"


def _returned(agent: Document, event: Document) -> Sequence[object]:
    tasks = agent.get("tasks", 0)
    go_on = "no task waits for it" if not tasks else "1 open task goes on" if tasks == 1 else ""
    go_on = go_on or f"{tasks:,} open tasks go on"
    some = f": {_some_of(agent)}" if tasks else ""
    return (f"agent {agent.get('agent_id', '?')} is loaded again; {go_on}{some}",)


def _some_of(agent: Document) -> str:
    ids = agent.get("task_ids", ())
    return ", ".join(ids) + (", ..." if agent.get("tasks", 0) > len(ids) else "")


def _registered(payload: Document, event: Document) -> Sequence[object]:
    names = ", ".join(str(capability["name"]) for capability in payload["capabilities"])
    return (names or payload.get("kind"),)


def _prompt_problem(then: str, payload: Document, event: Document) -> Sequence[object]:
    parts = [payload.get("error") or "?", then, payload.get("remedy")]
    return ("; ".join(short(part) for part in parts if part),)


def _decided(payload: Document, event: Document) -> Sequence[object]:
    by = payload.get("decided_by")
    changed = payload.get("arguments")
    given = changed is not None and f"with {_arguments(changed) or 'no arguments'}"
    return (payload.get("tool"), by and f"by {by}", given, short(payload.get("reason") or ""))


def _tool(payload: Document, event: Document) -> Sequence[object]:
    return (
        payload.get("tool", "?"),
        _arguments(payload.get("arguments")),
        payload.get("changed_by") and f"(changed by {payload['changed_by']})",
        payload.get("duration_ms") is not None and seconds(payload["duration_ms"]),
        payload.get("ok") is False and f"failed: {fault(payload.get('error'))}",
        payload.get("result") and f"-> {short(payload['result'])}",
    )


def _arguments(value: Any) -> str:
    """The arguments of a tool call, as JSON text or an object: `path="README.md"  limit=3`."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:  # as the model wrote it, or cut short
            return short(value)
    if not isinstance(value, dict):
        return short(value or "")
    return short(" ".join(f"{name}={json.dumps(item, ensure_ascii=False)}" for name, item in value.items()))


def _cut_off(payload: Document, event: Document) -> Sequence[object]:
    tools = ", ".join(str(call.get("tool")) for call in payload.get("tool_calls") or ())
    return "cut off", tools and f"in a call of {tools}, which was not run", short(payload.get("text", ""))


def _overran(payload: Document, event: Document) -> Sequence[object]:
    what = "has ended at last" if payload.get("ended") else "was given up, and its thread still runs"
    return (f"{payload.get('tool', '?')} {what}, after {payload.get('seconds', '?')} s",)


def _limit_reached(payload: Document, event: Document) -> Sequence[object]:
    limit, most = payload.get("limit", "?"), payload.get("most", "?")
    ends = payload.get("ends") == "calls"
    then = "the model is not called again" if ends else "the model has to answer without more tools"
    return (f"{limit} ({most}) is reached: {then}",)


WORDS: Mapping[str, EventWords] = {
    "agent.*": EventWords("", _registered),
    "agent.missing": EventWords("missing", lambda it, _: (missing(it),)),
    "agent.returned": EventWords("returned", _returned),
    "agent.code_changed": EventWords(
        "code changed",
        lambda it, _: (
            code_changed(it.get("agent_id", "?"), it.get("tasks", 0), it.get("once", 0)),
            f"(mesh tasks --agent {it.get('agent_id', '?')})",
        ),
    ),
    "prompt.fallback": EventWords("prompt", partial(_prompt_problem, "a built-in prompt takes its place")),
    "prompt.rejected": EventWords("prompt", partial(_prompt_problem, "the last good prompt stays in use")),
    "prompt.reloaded": EventWords("prompt", lambda said, _: (f"{said.get('path', '?')} was read again",)),
    "file.attached": EventWords("file", lambda file, _: (file_line(file),)),
    "run.progress": EventWords("progress", lambda said, _: (short(said.get("text", "")),)),
    "run.state": EventWords("state", lambda it, _: (it.get("state", "?"), short(it.get("reason") or ""))),
    "step.finished": EventWords(
        "step", lambda step, _: (step.get("name", "?"), seconds(step.get("duration_ms")))
    ),
    "answer.kept": EventWords(
        "kept", lambda said, _: (f"the answer to {said.get('asked')}, from before the restart",)
    ),
    "approval.requested": EventWords("approval", lambda said, _: (f"asked for {said.get('tool')}",)),
    "approval.given": EventWords("approved", _decided),
    "approval.denied": EventWords("denied", _decided),
    "approval.expired": EventWords("expired", _decided),
    "structure.invalid": EventWords(
        "model", lambda it, _: (f"does not fit {it.get('shape', '?')}: {short(it.get('error', ''))}",)
    ),
    "reply.cut_off": EventWords("model", _cut_off),
    "tool.called": EventWords("tool", _tool),
    "tool.overran": EventWords("tool", _overran),
    "toolset.ready": EventWords(
        "toolset", lambda it, _: (f"{it.get('name', '?')} is ready, with {it.get('tools', '?')} tools",)
    ),
    "toolset.changed": EventWords(
        "toolset", lambda it, _: (f"{it.get('name', '?')} has {it.get('tools', '?')} tools now",)
    ),
    "toolset.degraded": EventWords(
        "toolset",
        lambda it, _: (f"{it.get('name', '?')} is not available: {short(it.get('reason') or '')}",),
    ),
    "limit.*": EventWords("limit", _limit_reached),
    "calls.refused": EventWords(
        "limit", lambda it, _: (f"{it.get('calls')} calls are refused: {it.get('most')} of one reply run",)
    ),
}


def _abilities(agent: Document) -> str:
    if agent.get("problem"):
        return agent["problem"]
    if agent.get("kind") == "system":
        return "(part of the mesh)"
    unmet = agent.get("unmet") or {}
    able = ", ".join(_ability(it) for it in agent.get("capabilities", []) if it["name"] not in unmet)
    names = {reason: ", ".join(name for name in unmet if unmet[name] == reason) for reason in unmet.values()}
    return "; ".join([able] * bool(able) + [f"not {names[reason]}: {reason}" for reason in names])


def _ability(capability: Document) -> str:
    weight = capability.get("weight", 1)
    marks = ["preferred"] * bool(capability.get("preferred")) + [f"{weight:g}"] * (weight != 1)
    return f"{capability['name']} ({', '.join(marks)})" if marks else capability["name"]


def _agent_status(agent: Document) -> str:
    if not agent.get("healthy", True):
        return "unhealthy"
    return "degraded" if agent.get("unmet") and agent["status"] == "online" else agent["status"]


AGENTS = Resource(
    "agents",
    "/agents",
    (
        Column("agent", "agent_id"),
        Column("status", write=_agent_status),
        Column("last seen", "last_seen", local_time),
        Column("can do", write=_abilities),
    ),
    help="List agents with their capabilities and status.",
    empty="there are no agents; mesh doctor says more",
    need="log",
)
RESOURCES = (AGENTS,)
