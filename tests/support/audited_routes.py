"""Each route that changes a mesh or shows contents, and what it records, or why it records nothing."""

from typing import Any, NamedTuple


class Change(NamedTuple):
    """A valid request, and what it leaves in the audit trail. `{name}` is something of the mesh."""

    action: str
    subject: str
    body: Any = None
    query: dict[str, str] | None = None
    at: dict[str, str] | None = None


TASK = {"agent_id": "echo", "payload": {"text": "hello"}}
VARIANTS = [{"name": "now"}, {"name": "cold", "temperature": 0}]
CHANGES = {
    "POST /tasks/{task_id}/cancel": Change("task.cancelled", "tasks/{asked_1}", at={"task_id": "asked_1"}),
    "POST /tasks/{task_id}/retry": Change("task.retried", "tasks/{failed}", {}, at={"task_id": "failed"}),
    "POST /tasks/{task_id}/fork": Change(
        "task.forked", "tasks/{ended}", {"step": "1"}, at={"task_id": "ended"}
    ),
    "POST /tasks/{task_id}/answer": Change(
        "task.answered", "tasks/{asked_2}", {"key": "{wait_2}", "value": "yes"}, at={"task_id": "asked_2"}
    ),
    "POST /tasks/{task_id}/reveal": Change(
        "question.revealed", "tasks/{asked_5}", {"key": "{wait_5}"}, at={"task_id": "asked_5"}
    ),
    "POST /inbox/{question_id}/claim": Change(
        "question.claimed", "tasks/{asked_5}", at={"question_id": "question_5"}
    ),
    "POST /inbox/{question_id}/release": Change(
        "question.released", "tasks/{asked_5}", at={"question_id": "question_5"}
    ),
    "POST /budgets/raise": Change(
        "budget.raised", "tasks/{asked_1}", {"task_id": "{asked_1}", "amount_usd": "1"}
    ),
    "POST /deployments/test": Change("deployments.tested", "deployments", {}),
    "PUT /allowances": Change("allowance.set", "allowances/echo", {"whose": "echo", "allowance": "5/day"}),
    "DELETE /allowances": Change("allowance.removed", "allowances/echo", query={"whose": "echo"}),
    "POST /keys": Change("key.created", "keys/{new}", {"agent_id": "echo"}),
    "POST /keys/{key_id}/rotate": Change("key.rotated", "keys/{key_1}", {}, at={"key_id": "key_1"}),
    "DELETE /keys/{key_id}": Change("key.revoked", "keys/{key_2}", at={"key_id": "key_2"}),
    "POST /schedules": Change(
        "schedule.changed", "schedules/new", {"id": "new", "cron": "0 7 29 2 *", "task": TASK}
    ),
    "PUT /schedules/{schedule_id}": Change(
        "schedule.changed", "schedules/job", {"cron": "0 8 29 2 *", "task": TASK}, at={"schedule_id": "job"}
    ),
    "POST /schedules/{schedule_id}/pause": Change(
        "schedule.paused", "schedules/job", at={"schedule_id": "job"}
    ),
    "POST /schedules/{schedule_id}/resume": Change(
        "schedule.resumed", "schedules/job", at={"schedule_id": "job"}
    ),
    "POST /schedules/{schedule_id}/run": Change("schedule.run", "schedules/job", at={"schedule_id": "job"}),
    "DELETE /schedules/{schedule_id}": Change("schedule.deleted", "schedules/job", at={"schedule_id": "job"}),
    "PATCH /memories/{memory_id}": Change(
        "memory.edited", "memories/m-1", {"text": "Ports are 1."}, at={"memory_id": "memory_1"}
    ),
    "POST /memories/{memory_id}/promote": Change(
        "memory.promoted", "memories/m-2", at={"memory_id": "memory_2"}
    ),
    "POST /memories/{memory_id}/forget": Change(
        "memory.forgotten", "memories/m-1", at={"memory_id": "memory_1"}
    ),
    "POST /memories/{memory_id}/undo": Change("memory.undone", "memories/m-1", at={"memory_id": "memory_1"}),
    "DELETE /memories/{memory_id}": Change("memory.deleted", "memories/m-1", at={"memory_id": "memory_1"}),
    "DELETE /memories": Change("memory.deleted", "memories", query={"subject": "ports"}),
    "POST /api/agents": Change(
        "agent_config.created",
        "agents/new",
        {"agent_id": "new", "name": "New", "llm_provider": "openai", "llm_model": "m"},
    ),
    "PUT /api/agents/{agent_id}": Change(
        "agent_config.changed", "agents/echo", {"llm_model": "other"}, at={"agent_id": "echo"}
    ),
    "DELETE /api/agents/{agent_id}": Change("agent_config.deleted", "agents/echo", at={"agent_id": "echo"}),
    "POST /v1/prompts": Change(
        "prompt.registered", "prompts/new", {"name": "new", "template": "Be new.", "message": "New."}
    ),
    "PUT /v1/prompts/{name}": Change(
        "prompt.registered", "prompts/greeter", {"template": "Be kind."}, at={"name": "greeter"}
    ),
    "PUT /v1/prompts/{name}/labels/{label}": Change(
        "prompt.labelled", "prompts/greeter", {"version": 1}, at={"name": "greeter", "label": "production"}
    ),
    "DELETE /v1/prompts/{name}/labels/{label}": Change(
        "prompt.unlabelled", "prompts/greeter", at={"name": "greeter", "label": "canary"}
    ),
    "DELETE /v1/prompts/{name}": Change("prompt.deleted", "prompts/greeter", at={"name": "greeter"}),
    "POST /v1/evaluations": Change(
        "evaluation.made",
        "evaluations/new",
        {"evaluation_id": "new", "data": {"items": [{"output": "x"}]}, "metrics": ["length"]},
    ),
    "DELETE /v1/evaluations/{evaluation_id}": Change(
        "evaluation.deleted", "evaluations/done", at={"evaluation_id": "done"}
    ),
    "POST /v1/experiments": Change(
        "experiment.created", "experiments/{made}", {"name": "x", "agent_id": "echo", "variants": VARIANTS}
    ),
    "POST /v1/experiments/{experiment_id}/run": Change(
        "experiment.started", "experiments/{trial}", {}, at={"experiment_id": "trial"}
    ),
    "POST /v1/experiments/{experiment_id}/stop": Change(
        "experiment.stopped", "experiments/{trial}", at={"experiment_id": "trial"}
    ),
    "POST /erase": Change("contents.erased", "tasks of id '{ended}'", {"task_id": "{ended}"}),
    "POST /secrets/rotate": Change("secrets.rotated", "secrets"),
    "POST /prune": Change("tasks.pruned", "tasks"),
    "POST /drain": Change("mesh.drained", "mesh"),
    "POST /hold": Change("mesh.held", "mesh"),
    "POST /release": Change("mesh.released", "mesh"),
    "POST /keys/open": Change("keys.opened", "keys"),
}
"""In the order in which they are made: the keys are opened last, since the caller's is one of them."""
A2A = [
    f"{verb} {base}{path}"
    for base in ("/a2a", "/a2a/agents/{agent_id}")
    for verb, path in (
        ("POST", ""),
        ("POST", "/"),
        ("POST", "/message:send"),
        ("POST", "/message:stream"),
        ("POST", "/tasks/{id}:cancel"),
        ("POST", "/tasks/{id}:subscribe"),
        ("POST", "/tasks/{taskId}/pushNotificationConfigs"),
        ("DELETE", "/tasks/{taskId}/pushNotificationConfigs/{id}"),
    )
]
ACCEPTED = {
    "POST /tasks": "task.accepted says who, in the same commit",
    "POST /ag-ui/{agent_id}": "task.accepted says who; an answer or a cancel is audited as everywhere",
    **dict.fromkeys(A2A, "task.accepted says who; an answer or a cancel is audited as everywhere"),
    "POST /events": "the event itself says who has published it",
    "POST /retry": "each task is recorded, as by POST /tasks/{task_id}/retry",
    "POST /cancel": "each task is recorded, as by POST /tasks/{task_id}/cancel",
    "POST /inbox/answer": "each answer is recorded, as by POST /tasks/{task_id}/answer, or by its source",
    "POST /webhooks/{source}": "webhook.received names the delivery, task.accepted the source",
    "POST /channels/{channel}": "task.accepted names the sender; an answer is audited as everywhere",
    "POST /v1/tasks/{task_id}/scores": "task.scored says who",
    "POST /v1/prompts/{name}/test": "task.accepted says who, and which version",
    "POST /compress": "changes nothing; model.called says who has called a model",
    "POST /session": "session.opened says who; it comes with a key or token, not with a caller",
    "DELETE /session": "a reader ends the own login; session.opened says who that was",
    "POST /complete": "changes nothing; model.called says who has called it",
    "POST /v1/chat/completions": "changes nothing; model.called says who has called it",
    "POST /v1/responses": "changes nothing; model.called says who has called it, task.accepted of an agent",
    "POST /v1/responses/resp_{task_id}/cancel": "recorded as by POST /tasks/{task_id}/cancel",
    "POST /v1/conversations": "the caller's own texts, beside the tasks that they go to",
    "POST /v1/conversations/{conversation_id}": "the caller's own texts, beside the tasks that they go to",
    "DELETE /v1/conversations/{conversation_id}": "the caller's own texts; tasks stay",
    "POST /v1/conversations/{conversation_id}/items": "the caller's own texts, beside its tasks",
    "DELETE /v1/conversations/{conversation_id}/items/{item_id}": "the caller's own texts; tasks stay",
    "POST /v1/responses/input_tokens": "changes nothing, and calls no model",
    "POST /v1/messages": "changes nothing; model.called says who has called it",
    "POST /v1/messages/count_tokens": "changes nothing, and calls no model",
    "POST /v1/embeddings": "changes nothing; model.called says who has called it",
}
"""Routes that need no record of the audit trail, and why."""
READS = {
    "/tasks/{task_id}": "tasks/{ended}",
    "/v1/responses/resp_{task_id}": "tasks/{ended}",
    "/tasks/{task_id}/events": "tasks/{ended}",
    "/tasks/{task_id}/steps": "tasks/{ended}",
    "/tasks/{task_id}/steps/{path}": "tasks/{ended}",
    "/tasks/{task_id}/export": "tasks/{ended}",
    "/tasks/{task_id}/files/{number}": "tasks/{given}",
    "/events": "events",
    "/events/stream": "events",
    "/inbox": "inbox",
    "/memories": "memories",
    "/memories/{memory_id}": "memories",
    "/trees/{task_id}": "trees",
    "/trees/{task_id}/diff": "trees",
    "/api/agents/{agent_id}/llm": "agents/echo",
    "/v1/evaluations/{evaluation_id}/items": "evaluations/done",
    "/a2a/tasks/{id}": "tasks/{ended}",
    "/a2a/agents/{agent_id}/tasks/{id}": "tasks/{ended}",
}
"""Routes that show contents or a key, and what the record names."""
FACTS = """
/dead-letters /tasks/{task_id}/cancel /tasks/{task_id}/retry /tasks/{task_id}/tree
/agents /agents/score/{capability} /allowances /api/agents /api/agents/{agent_id} /audit/verify /budgets
/channels /channels/{channel} /webhooks /me /session /costs /costs/estimate /deployments /deployments/route
/figures /figures/flows /figures/trends /keys /metrics /scale/{app} /story /schedules /schedules/{schedule_id}
/schedules/{schedule_id}/next /status
/store/verify /tasks /trees /prompts/{name}/versions/{version}
/v1/conversations/{conversation_id} /v1/conversations/{conversation_id}/items
/v1/conversations/{conversation_id}/items/{item_id}
/v1/models /v1/models/{model_id:path} /v1/prompts /v1/prompts/{name} /v1/prompts/{name}/versions
/v1/evaluations /v1/evaluations/{evaluation_id}
/v1/experiments /v1/experiments/{experiment_id} /v1/experiments/{experiment_id}/results
/.well-known/agent-card.json
/a2a/.well-known/agent-card.json /a2a/extendedAgentCard /a2a/tasks /a2a/tasks/{id}:subscribe
/a2a/tasks/{taskId}/pushNotificationConfigs /a2a/tasks/{taskId}/pushNotificationConfigs/{id}
/a2a/agents/{agent_id}/.well-known/agent-card.json /a2a/agents/{agent_id}/extendedAgentCard
/a2a/agents/{agent_id}/tasks /a2a/agents/{agent_id}/tasks/{id}:subscribe
/a2a/agents/{agent_id}/tasks/{taskId}/pushNotificationConfigs
/a2a/agents/{agent_id}/tasks/{taskId}/pushNotificationConfigs/{id}
"""
"""Routes that show what there is and what happened, a schedule's own task, texts of prompts, and figures."""
