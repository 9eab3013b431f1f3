"""The names with which a part is written, ours or a third party's: operations, tables, commands and errors.

`meshwright.component` has those with which it joins a mesh. Each name is imported when it is first used, so a
command that prints a help loads neither FastAPI nor pydantic.

    class Pagers:
        @operation(Rule("mutes pagers", (Role.OPERATOR,)), "POST /pagers/{name}/mute", "Mute a pager")
        async def mute(self, caller: Caller, name: Identifier, *, minutes: int = 5) -> Pager:
            if name not in self._pagers:
                raise NotFound(f"There is no pager {name!r}", remedy="mesh pager lists them")
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from meshwright.agents.agent import AgentTypes
    from meshwright.agents.loader import BoundAgents
    from meshwright.console.connect import Connection, talk
    from meshwright.console.nouns import Noun, completes, completes_ids, resource_group
    from meshwright.console.options import (
        AMOUNT,
        DURATION,
        JSON_OBJECT,
        Target,
        WholeNumber,
        confirm,
        from_stdin,
        json_option,
        mesh_options,
        yes_option,
    )
    from meshwright.console.output import (
        document,
        echo_json,
        for_terminal,
        labelled,
        say,
        show,
        table,
        terminal_width,
    )
    from meshwright.core import topics
    from meshwright.core.access import Role
    from meshwright.core.capability import LLM_SERVICE
    from meshwright.core.clock import Backoff, unless
    from meshwright.core.display import (
        Document,
        age,
        dollars,
        local_time,
        or_never,
        printable,
        short,
        short_id,
    )
    from meshwright.core.encoding import Struct, View, decode, encode
    from meshwright.core.errors import (
        ConfigError,
        Conflict,
        Forbidden,
        HostError,
        IdempotencyConflict,
        InvalidInput,
        NoAgentAvailable,
        NotFound,
        Overloaded,
        PromptError,
        StorageExceeded,
        TooLarge,
        nearest,
    )
    from meshwright.core.ids import ID_PATTERN, Identifier, derived_id, new_id
    from meshwright.core.messages import ENDED, Fault, TaskStatus, TaskVariant, Usage
    from meshwright.core.money import ZERO, Amount, Budget, Dollars, exact, from_pico, pico
    from meshwright.core.operations import (
        Input,
        Limit,
        Rule,
        has_role,
        operation,
        require_all_tenants,
        visible_tenant,
    )
    from meshwright.core.payloads import by_type, declared
    from meshwright.edges.bodies import ChangeBody
    from meshwright.edges.http.operation_routes import make_routes
    from meshwright.edges.http.routing import MeshDep, ReadyMesh, by_rule, problems
    from meshwright.edges.replies.courier import until_answered
    from meshwright.engine.events.inbox import Question, question_id
    from meshwright.engine.events.inbox_sources import SourcePage, SourceQuery, WholeInbox
    from meshwright.engine.events.log import EventLog
    from meshwright.engine.events.projections import Projection
    from meshwright.engine.kernel.runtime import Runtime
    from meshwright.engine.kernel.timers import Duty
    from meshwright.engine.kernel.turns import ActorKind
    from meshwright.engine.sql.database import Database, Session, marks
    from meshwright.engine.sql.encryption import EncryptedColumn
    from meshwright.engine.work import Worker
    from meshwright.mesh.identity.administration import ModelOperations
    from meshwright.mesh.identity.operations import Acting
    from meshwright.mesh.mesh import FRONT, ORCHESTRATION
    from meshwright.mesh.orchestration.acceptance import FINAL
    from meshwright.mesh.orchestration.registry import Registry

_HOMES = {
    "agents.agent": "AgentTypes",
    "agents.loader": "BoundAgents",
    "console.connect": "Connection talk",
    "console.nouns": "Noun completes completes_ids resource_group",
    "console.options": "AMOUNT DURATION JSON_OBJECT Target WholeNumber confirm from_stdin json_option "
    "mesh_options yes_option",
    "console.output": "document echo_json for_terminal labelled say show table terminal_width",
    "core.access": "Role",
    "core.capability": "LLM_SERVICE",
    "core.clock": "Backoff unless",
    "core.display": "Document age dollars local_time or_never printable short short_id",
    "core.encoding": "Struct View decode encode",
    "core.errors": "ConfigError Conflict Forbidden HostError IdempotencyConflict InvalidInput "
    "NoAgentAvailable NotFound Overloaded PromptError StorageExceeded TooLarge nearest",
    "core.ids": "ID_PATTERN Identifier derived_id new_id",
    "core.messages": "ENDED Fault TaskStatus TaskVariant Usage",
    "core.money": "ZERO Amount Budget Dollars exact from_pico pico",
    "core.operations": "Input Limit Rule has_role operation require_all_tenants visible_tenant",
    "core.payloads": "by_type declared",
    "edges.bodies": "ChangeBody",
    "edges.http.operation_routes": "make_routes",
    "edges.http.routing": "MeshDep ReadyMesh by_rule problems",
    "edges.replies.courier": "until_answered",
    "engine.events.inbox": "Question question_id",
    "engine.events.inbox_sources": "SourcePage SourceQuery WholeInbox",
    "engine.events.log": "EventLog",
    "engine.events.projections": "Projection",
    "engine.kernel.runtime": "Runtime",
    "engine.kernel.timers": "Duty",
    "engine.kernel.turns": "ActorKind",
    "engine.sql.database": "Database Session marks",
    "engine.sql.encryption": "EncryptedColumn",
    "engine.work": "Worker",
    "mesh.identity.administration": "ModelOperations",
    "mesh.identity.operations": "Acting",
    "mesh.mesh": "FRONT ORCHESTRATION",
    "mesh.orchestration.acceptance": "FINAL",
    "mesh.orchestration.registry": "Registry",
}
"""The public names of each module."""

__all__ = [
    "AMOUNT",
    "DURATION",
    "ENDED",
    "FINAL",
    "FRONT",
    "ID_PATTERN",
    "JSON_OBJECT",
    "LLM_SERVICE",
    "ORCHESTRATION",
    "ZERO",
    "Acting",
    "ActorKind",
    "AgentTypes",
    "Amount",
    "Backoff",
    "BoundAgents",
    "Budget",
    "ChangeBody",
    "ConfigError",
    "Conflict",
    "Connection",
    "Database",
    "Document",
    "Dollars",
    "Duty",
    "EncryptedColumn",
    "EventLog",
    "Fault",
    "Forbidden",
    "HostError",
    "IdempotencyConflict",
    "Identifier",
    "Input",
    "InvalidInput",
    "Limit",
    "MeshDep",
    "ModelOperations",
    "NoAgentAvailable",
    "NotFound",
    "Noun",
    "Overloaded",
    "Projection",
    "PromptError",
    "Question",
    "ReadyMesh",
    "Registry",
    "Role",
    "Rule",
    "Runtime",
    "Session",
    "SourcePage",
    "SourceQuery",
    "StorageExceeded",
    "Struct",
    "Target",
    "TaskStatus",
    "TaskVariant",
    "TooLarge",
    "Usage",
    "View",
    "WholeInbox",
    "WholeNumber",
    "Worker",
    "age",
    "by_rule",
    "by_type",
    "completes",
    "completes_ids",
    "confirm",
    "declared",
    "decode",
    "derived_id",
    "document",
    "dollars",
    "echo_json",
    "encode",
    "exact",
    "for_terminal",
    "from_pico",
    "from_stdin",
    "has_role",
    "json_option",
    "labelled",
    "local_time",
    "make_routes",
    "marks",
    "mesh_options",
    "nearest",
    "new_id",
    "operation",
    "or_never",
    "pico",
    "printable",
    "problems",
    "question_id",
    "require_all_tenants",
    "resource_group",
    "say",
    "short",
    "short_id",
    "show",
    "table",
    "talk",
    "terminal_width",
    "topics",
    "unless",
    "until_answered",
    "visible_tenant",
    "yes_option",
]


def __getattr__(name: str) -> Any:
    if name == "topics":  # a module
        return import_module("meshwright.core.topics")
    home = next((module for module, names in _HOMES.items() if name in names.split()), None)
    if home is None:
        raise AttributeError(f"module 'meshwright.kit' has no attribute {name!r}")
    return getattr(import_module(f"meshwright.{home}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
