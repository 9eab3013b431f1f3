"""The names for parts of a mesh, ours or a third party's; `Component` says how one joins.

A package registers its `Part` under the entry point group `meshwright.components`. Each name is imported when
it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from meshwright.agents.context.memory import MemoryCatalog, MemoryItem, MemoryStore
    from meshwright.agents.prompts.prompt import Prompt, parse_prompt
    from meshwright.agents.prompts.sources import PromptContext, PromptSource
    from meshwright.core.access import KEY_ROLES
    from meshwright.core.display import Column, Resource, Verb
    from meshwright.core.errors import Conflict, Forbidden, InvalidInput, MemoryUnavailable, NotFound
    from meshwright.core.messages import Caller, MemoryKind
    from meshwright.core.otel import SdkSpans
    from meshwright.core.part import Check, Part
    from meshwright.core.payloads import Fact, Payload
    from meshwright.core.settings import Settings, load_settings
    from meshwright.core.settings.forms import Secret, Table
    from meshwright.edges.bodies import read_model
    from meshwright.edges.http.routing import OperatorDep, SubmitterDep, ViewerDep, make_router, may
    from meshwright.edges.replies.courier import Address, Courier, Sender, Undeliverable
    from meshwright.engine.events.audit import Audit, hashed
    from meshwright.engine.kernel.actor import Actor, Turn, turn
    from meshwright.engine.kernel.envelope import ActorRef
    from meshwright.engine.work.protocol import TaskKey
    from meshwright.mesh.app import build_mesh
    from meshwright.mesh.components import Actors, Component, Figure, Pages
    from meshwright.mesh.identity.administration import Administration
    from meshwright.mesh.identity.auth import Authenticator, Authenticators, Credentials
    from meshwright.mesh.identity.operations import Operations, record_refusal
    from meshwright.mesh.mesh import Mesh
    from meshwright.mesh.orchestration.tasks import Tasks
    from meshwright.models.errors import ModelUnavailable
    from meshwright.models.named_models import ModelSettings, open_model, with_fallbacks
    from meshwright.models.port import (
        Model,
        ModelPosition,
        ModelReply,
        ModelRequest,
        ModelWrapper,
        OnDelta,
        ToolCall,
        Wrapper,
    )
    from meshwright.models.thinking import Thinking, thinking_callback

_HOMES = {
    "agents.context.memory": "MemoryCatalog MemoryItem MemoryStore",
    "agents.prompts.prompt": "Prompt parse_prompt",
    "agents.prompts.sources": "PromptContext PromptSource",
    "core.access": "KEY_ROLES",
    "core.display": "Column Resource Verb",
    "core.errors": "Conflict Forbidden InvalidInput MemoryUnavailable NotFound",
    "core.messages": "Caller MemoryKind",
    "core.otel": "SdkSpans",
    "core.part": "Check Part",
    "core.payloads": "Fact Payload",
    "core.settings": "Settings load_settings",
    "core.settings.forms": "Secret Table",
    "edges.bodies": "read_model",
    "edges.http.routing": "OperatorDep SubmitterDep ViewerDep make_router may",
    "edges.replies.courier": "Address Courier Sender Undeliverable",
    "engine.events.audit": "Audit hashed",
    "engine.kernel.actor": "Actor Turn turn",
    "engine.kernel.envelope": "ActorRef",
    "engine.work.protocol": "TaskKey",
    "mesh.app": "build_mesh",
    "mesh.components": "Actors Component Figure Pages",
    "mesh.identity.administration": "Administration",
    "mesh.identity.auth": "Authenticator Authenticators Credentials",
    "mesh.identity.operations": "Operations record_refusal",
    "mesh.mesh": "Mesh",
    "mesh.orchestration.tasks": "Tasks",
    "models.errors": "ModelUnavailable",
    "models.named_models": "ModelSettings open_model with_fallbacks",
    "models.port": "Model ModelPosition ModelReply ModelRequest ModelWrapper OnDelta ToolCall Wrapper",
    "models.thinking": "Thinking thinking_callback",
}
"""The public names of each module."""

__all__ = [
    "KEY_ROLES",
    "Actor",
    "ActorRef",
    "Actors",
    "Address",
    "Administration",
    "Audit",
    "Authenticator",
    "Authenticators",
    "Caller",
    "Check",
    "Column",
    "Component",
    "Conflict",
    "Courier",
    "Credentials",
    "Fact",
    "Figure",
    "Forbidden",
    "InvalidInput",
    "MemoryCatalog",
    "MemoryItem",
    "MemoryKind",
    "MemoryStore",
    "MemoryUnavailable",
    "Mesh",
    "Model",
    "ModelPosition",
    "ModelReply",
    "ModelRequest",
    "ModelSettings",
    "ModelUnavailable",
    "ModelWrapper",
    "NotFound",
    "OnDelta",
    "Operations",
    "OperatorDep",
    "Pages",
    "Part",
    "Payload",
    "Prompt",
    "PromptContext",
    "PromptSource",
    "Resource",
    "SdkSpans",
    "Secret",
    "Sender",
    "Settings",
    "SubmitterDep",
    "Table",
    "TaskKey",
    "Tasks",
    "Thinking",
    "ToolCall",
    "Turn",
    "Undeliverable",
    "Verb",
    "ViewerDep",
    "Wrapper",
    "build_mesh",
    "hashed",
    "load_settings",
    "make_router",
    "may",
    "open_model",
    "parse_prompt",
    "read_model",
    "record_refusal",
    "thinking_callback",
    "turn",
    "with_fallbacks",
]


def __getattr__(name: str) -> Any:
    home = next((module for module, names in _HOMES.items() if name in names.split()), None)
    if home is None:
        raise AttributeError(f"module 'meshwright.component' has no attribute {name!r}")
    return getattr(import_module(f"meshwright.{home}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
