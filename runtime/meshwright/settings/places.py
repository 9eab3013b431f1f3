"""Where in the tables a setting is: also under the names from before there were tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_MOVED = """
http: allowed_hosts insecure listen_host=host listen_port=port
keys: admin_token require_keys=required
prompts: prompt_dir=dir prompt_reload_seconds=reload_seconds
agents: max_concurrency max_steps max_repeats max_chain actors_dir=dir
tools: workspace allow_private_addresses tool_timeout_seconds=timeout_seconds
models: stream cache cache_ttl_seconds cache_max_bytes cache_redis_url model=adapter model_name=name
models: litellm_base_url=base_url litellm_api_key=api_key litellm_config=config
ledger: budgets default_price
orchestration: max_open_tasks max_thread_tasks max_attempts
context: memory_max_tokens context_max_tokens=max_tokens
tracing: otlp_endpoint trace=enabled trace_content=content
dapr: namespace bus broker_url redis_host redis_password placement scheduler
dapr: dapr_channel=channel dapr_bin=bin
mqtt: mqtt_url=url mqtt_username=username mqtt_password=password
mqtt: mqtt_ca_file=ca_file mqtt_prefix=prefix mqtt_reply_prefix=reply_prefix
watchdog: loop_held_seconds=held_seconds loop_restart_seconds=restart_seconds
presence: heartbeat_seconds degraded_after_seconds offline_after_seconds
"""
MOVED: Mapping[str, tuple[str, ...]] = {"host": ("store",)} | {
    old: (table, new or old)
    for table, _, names in (line.partition(": ") for line in _MOVED.strip().splitlines())
    for old, _, new in (name.partition("=") for name in names.split())
}
"""Where each setting is that had no table once: it is still read under that name."""


def in_tables(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values with those of old names in their tables; where both are given, the new name counts."""
    both: dict[str, Any] = {}
    for name in sorted(values, key=lambda name: name not in MOVED):
        put(both, MOVED.get(name, (name,)), values[name])
    return {**both, "store": "sqlite"} if both.get("store") == "embedded" else both


def put(values: dict[str, Any], place: Sequence[str], value: Any) -> None:
    """Set the value of a place within tables: of what is a table each field, of all else the whole."""
    if not place:
        for name, field in value.items():
            put(values, (name,), field)
        return
    name, *within = place
    inner = values.get(name)
    if within or (isinstance(value, Mapping) and isinstance(inner, Mapping)):
        values[name] = dict(inner) if isinstance(inner, Mapping) else {}
        put(values[name], within, value)
    else:
        values[name] = value
