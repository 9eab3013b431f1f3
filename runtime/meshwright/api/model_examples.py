"""What the OpenAPI document shows of models and keys."""

from __future__ import annotations

from meshwright.api.examples import Example

CHAT: Example = {
    "model": "fast",
    "messages": [{"role": "user", "content": "What is a turn?"}],
    "tags": ["cheap"],
}
COMPLETION: Example = {
    "id": "chatcmpl-01K9Z3T5QX7C2M8R4V6B1N0DHJ",
    "object": "chat.completion",
    "created": 1893499200,
    "model": "claude-haiku-4-5",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "A turn is a unit of work.", "refusal": None},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ],
    "usage": {
        "prompt_tokens": 12,
        "completion_tokens": 9,
        "total_tokens": 21,
        "prompt_tokens_details": {"cached_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0},
    },
}
MODELS: Example = {
    "object": "list",
    "data": [{"id": "fast", "object": "model", "created": 0, "owned_by": "meshwright"}],
}
COMPLETE_REQUEST: Example = {
    "model": "quality",
    "messages": [{"role": "user", "content": "What is a turn?"}],
    "tenant_id": "acme",
}
COMPLETE_RESPONSE: Example = {
    "content": "A turn is a unit of work.",
    "model": "claude-opus-4-8",
    "usage": {"prompt_tokens": 12, "completion_tokens": 9},
}
KEY_REQUEST: Example = {"agent_id": "researcher-agent", "tenant_id": "acme", "budget": "5.00/day"}
KEY: Example = {
    "key_id": "01K9Z3T5QX7C2M8R4V6B1N0DHJ",
    "agent_id": "researcher-agent",
    "tenant_id": "acme",
    "budget": {
        "name": "key-01k9z3t5qx7c2m8r4v6b1n0dhj",
        "scope": "agent",
        "of": "researcher-agent",
        "limit_usd": "5.00",
        "window": "day",
        "hard": True,
        "cheaper_tag": None,
    },
    "created_at": "2030-01-01T12:00:00Z",
    "revoked_at": None,
}
NEW_KEY: Example = {**KEY, "key": "sk-mesh-01K9Z3T5QX7C2M8R4V6B1N0DHJ-..."}
KEYS: Example = {"items": [KEY], "required": True}
