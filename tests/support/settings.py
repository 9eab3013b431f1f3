"""Settings of tests, whose tables may be left out: `load_settings(project, mqtt_url=...)`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from meshwright.core import settings

_SHORT = """
http: allowed_hosts insecure listen_host=host listen_port=port
keys: admin_token require_keys=required
prompts: prompt_dir=dir
agents: max_concurrency max_steps max_repeats max_chain
tools: workspace allow_private_addresses tool_timeout_seconds=timeout_seconds
models: stream cache cache_redis_url model=adapter model_name=name
models: litellm_base_url=base_url litellm_api_key=api_key litellm_config=config
ledger: budgets default_price
orchestration: max_open_tasks max_thread_tasks max_attempts
tracing: otlp_endpoint trace=enabled trace_content=content
dapr: namespace bus broker_url redis_host redis_password placement scheduler dapr_channel=channel
mqtt: mqtt_url=url mqtt_username=username mqtt_password=password mqtt_ca_file=ca_file mqtt_prefix=prefix
presence: heartbeat_seconds degraded_after_seconds offline_after_seconds
"""
_PLACES = {
    short: (table, name or short)
    for table, _, names in (line.partition(": ") for line in _SHORT.strip().splitlines())
    for short, _, name in (word.partition("=") for word in names.split())
}


def in_tables(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values with those of short names in their tables; a table's own fields win."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        if name in _PLACES:
            table, field = _PLACES[name]
            found[table] = {field: value} | found.get(table, {})
        elif isinstance(value, Mapping):
            found[name] = found.get(name, {}) | value
        else:
            found[name] = value
    return found


def load_settings(project: Path, **values: Any) -> settings.Settings:
    """As that of meshwright."""
    return settings.load_settings(project, **in_tables(values))


def Settings(**values: Any) -> settings.Settings:  # noqa: N802 in place of the class
    """As the class of meshwright."""
    return settings.Settings(**in_tables(values))
