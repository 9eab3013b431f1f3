"""The configurations of agents, as the client and the commands show them."""

from __future__ import annotations

from meshwright.component import Column, Resource, Verb
from meshwright.kit import Document, or_never


def render_model(config: Document) -> str:
    """The model of a configuration, as its provider and it are named: `ollama/llama3`."""
    return f"{config['llm_provider']}/{config['llm_model']}"


def render_state(config: Document) -> str:
    """The marks of a configuration: default, inactive."""
    return ", ".join(["default"] * config["is_default"] + ["inactive"] * (not config["is_active"]))


def _yes_or_no(value: bool) -> str:
    return "yes" if value else "no"


CONFIGS = Resource(
    "agent_configs",
    "/api/agents",
    (
        Column("agent", "agent_id"),
        Column("model", write=render_model),
        Column("endpoint", "llm_endpoint", cut=2),
        Column("key", "has_api_key", _yes_or_no),
        Column("state", write=render_state),
        Column("changed", "updated_at", or_never, cut=1),
    ),
    help="""Configure which model each agent calls.

    An active configuration decides the agent's next call, on every worker, without a restart. `default`
    stands for the tenant's default agent, which counts for agents without a configuration of their own.
    """,
    lists="List the configurations, without keys.",
    empty="no agent is configured; mesh config agents set AGENT --provider NAME --model NAME does it",
    command="agents",
    id="AGENT",
    verbs=(
        Verb("show", "Show one configuration as JSON, without its key.", method="GET", hides=["problem"]),
        Verb(
            "delete",
            "Delete a configuration with its key; the agent calls what its prompt names again.",
            lambda config: f"the configuration of {config['agent_id']} is deleted",
            method="DELETE",
        ),
    ),
)
RESOURCES = (CONFIGS,)
