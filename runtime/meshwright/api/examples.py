"""What the OpenAPI document shows: one task, from request to outcome, and what is told of it."""

from __future__ import annotations

from typing import Any

Example = dict[str, Any]

TASK_ID = "01K9Z3T5QX7C2M8R4V6B1N0DHJ"
REQUEST: Example = {"capability": "general-query", "payload": {"text": "What is a turn?"}, "priority": 5}
ANSWER: Example = {"key": f"steps/{TASK_ID}/1/1/2", "value": "Yes, version 1.4 is out."}
RECEIPT: Example = {
    "task_id": TASK_ID,
    "status": "dispatched",
    "dispatched_to": "simple-agent",
    "score": 1.05,
}
SCORE_CARD: Example = {
    "agent_id": "simple-agent",
    "capability": "general-query",
    "score": 1.05,
    "weight": 1.0,
    "health": 1.0,
    "success": 1.0,
    "streak": 1.0,
    "preferred": 1.05,
}
SCORES: Example = {"items": [SCORE_CARD]}
OUTCOME: Example = {
    "version": 1,
    "task_id": TASK_ID,
    "agent_id": "simple-agent",
    "status": "succeeded",
    "success": True,
    "result": {"text": "A turn is a unit of work."},
    "error": None,
    "duration_ms": 31.5,
    "model": "offline",
    "usage": {"prompt_tokens": 212, "completion_tokens": 9},
    "cost_usd": "0",
    "completed_at": "2030-01-01T12:00:00.031Z",
    "generation": 1,
    "attempt": 1,
}
TASK: Example = {
    "task_id": TASK_ID,
    "capability": "general-query",
    "payload": {"text": "What is a turn?"},
    "status": "succeeded",
    "attempts": [
        {
            "attempt": 1,
            "agent_id": "simple-agent",
            "score_card": SCORE_CARD,
            "started_at": "2030-01-01T12:00:00Z",
            "ended_at": "2030-01-01T12:00:00.031Z",
            "error": None,
        }
    ],
    "outcome": OUTCOME,
    "priority": 5,
    "timeout": 120.0,
    "deadline_at": "2030-01-01T12:06:00Z",
    "created_at": "2030-01-01T12:00:00Z",
    "requested_by": "anonymous",
    "tenant_id": "default",
    "thread_id": TASK_ID,
    "parent_task_id": None,
    "chain": [],
    "generation": 1,
    "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736",
}
TASKS: Example = {
    "items": [
        {
            "seq": 42,
            "last_seq": 51,
            "task_id": TASK_ID,
            "tenant_id": "default",
            "capability": "general-query",
            "status": "succeeded",
            "agent_id": "simple-agent",
            "priority": 5,
            "requested_by": "anonymous",
            "thread_id": TASK_ID,
            "parent_task_id": None,
            "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736",
            "generation": 1,
            "attempts": 1,
            "reason": None,
            "created_at": "2030-01-01T12:00:00Z",
            "updated_at": "2030-01-01T12:00:00.031Z",
            "completed_at": "2030-01-01T12:00:00.031Z",
            "duration_ms": 31.5,
            "model": "offline",
            "usage": {"prompt_tokens": 212, "completion_tokens": 9},
            "cost_usd": "0",
        }
    ],
    "cursor": "42",
}
EVENT: Example = {
    "id": f"Orchestrator/{TASK_ID}/1",
    "event_type": "task.accepted",
    "event_version": 1,
    "topic": "task-progress",
    "time": "2030-01-01T12:00:00Z",
    "tenant_id": "default",
    "task_id": TASK_ID,
    "agent_id": "simple-agent",
    "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736",
    "traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-03",
    "aggregate_id": f"Orchestrator/{TASK_ID}",
    "idempotency_key": None,
    "payload": {"capability": "general-query", "priority": 5, "dispatched_to": "simple-agent"},
    "seq": 42,
}
EVENT_PAGE: Example = {"items": [EVENT], "next_seq": None}
EVENT_STREAM = 'id: 42\nevent: task.accepted\ndata: {"event_type":"task.accepted","seq":42, ...}\n\n'
AGENT: Example = {
    "version": 1,
    "agent_id": "simple-agent",
    "name": "simple-agent",
    "kind": "agent",
    "capabilities": [
        {
            "name": "general-query",
            "weight": 1.0,
            "preferred": True,
            "requirements": [],
            "async": True,
            "estimated_duration_seconds": None,
            "platforms": [],
        }
    ],
    "health_check_urls": [],
    "metadata": {},
    "status": "online",
    "last_seen": "2030-01-01T12:00:00Z",
    "healthy": True,
    "problem": None,
}
AGENTS: Example = {"items": [AGENT]}
COMPRESS_REQUEST: Example = {
    "sender": "project-manager",
    "receiver": "architect-agent",
    "project_id": "billing",
    "task_summary": "Choose a queue for invoices",
    "sender_memories": ["Invoices must not be lost on a restart"],
    "constraints": ["No new services"],
}
COMPRESS_RESPONSE: Example = {
    "success": True,
    "compressed_context": "METADATA:\nproject_id: billing\n...",
    "method": "deterministic",
    "stats": {"input_tokens": 96, "output_tokens": 88, "ratio": 0.92, "duration_ms": 0.6},
    "validation_passed": True,
    "error": None,
}
