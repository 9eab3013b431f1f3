"""The HTTP API of agent configurations, below /api/agents; tenant and role are the caller's."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Path, Request, Response
from starlette.types import Scope

from meshwright.core.errors import Forbidden
from meshwright.core.http_limits import PEER_UID
from meshwright.core.messages import ID_PATTERN, Caller
from meshwright.edges.http.app import is_local
from meshwright.edges.http.routing import MeshDep, by_rule, make_router, problems
from meshwright.services.agent_config.component import AgentConfigComponent
from meshwright.services.agent_config.configs import CHANGE, READ_KEY, SEE, AgentConfigs
from meshwright.services.agent_config.records import (
    AgentConfig,
    AgentConfigList,
    AgentConfigRequest,
    AgentConfigUpdate,
    AgentLLM,
)

router = make_router("agent configuration")
_MISSING = {404: "The agent has no configuration."}
_NOT_ADMIN = {403: "Only an administrator of the tenant may."}


async def _configs_of(mesh: MeshDep) -> AgentConfigs:
    return mesh.component(AgentConfigComponent).configs


_Configs = Annotated[AgentConfigs, Depends(_configs_of)]
_ViewerDep = Annotated[Caller, by_rule(SEE)]
_AdminDep = Annotated[Caller, by_rule(CHANGE)]
_KeyReaderDep = Annotated[Caller, by_rule(READ_KEY)]
_AgentId = Annotated[str, Path(pattern=ID_PATTERN, description="`default` is the tenant's default agent.")]


@router.get("/api/agents", summary="List agent configurations")
async def list_configs(configs: _Configs, caller: _ViewerDep) -> AgentConfigList:
    """List the tenant's configurations; never a key."""
    return AgentConfigList(items=await configs.list(caller))


@router.post(
    "/api/agents",
    status_code=201,
    summary="Configure an agent",
    responses=problems({409: "The agent has a configuration already.", **_NOT_ADMIN}),
)
async def create_config(configs: _Configs, caller: _AdminDep, wanted: AgentConfigRequest) -> AgentConfig:
    """Say which model an agent calls. It decides the agent's next call, on every worker."""
    return await configs.create(caller, wanted)


@router.get("/api/agents/{agent_id}", summary="Show an agent's configuration", responses=problems(_MISSING))
async def show_config(configs: _Configs, caller: _ViewerDep, agent_id: _AgentId) -> AgentConfig:
    """Show one configuration, without its key."""
    return await configs.get(caller, agent_id)


@router.put(
    "/api/agents/{agent_id}",
    summary="Change an agent's configuration",
    responses=problems({409: "Another caller has just changed it.", **_MISSING, **_NOT_ADMIN}),
)
async def change_config(
    configs: _Configs, caller: _AdminDep, agent_id: _AgentId, wanted: AgentConfigUpdate
) -> AgentConfig:
    """Change the fields that are sent. It decides the agent's next call, on every worker."""
    return await configs.update(caller, agent_id, wanted)


@router.delete(
    "/api/agents/{agent_id}",
    summary="Delete an agent's configuration",
    responses=problems({**_MISSING, **_NOT_ADMIN}),
)
async def delete_config(configs: _Configs, caller: _AdminDep, agent_id: _AgentId) -> AgentConfig:
    """Delete a configuration with its key. The next call is as without one."""
    return await configs.delete(caller, agent_id)


@router.get(
    "/api/agents/{agent_id}/llm",
    summary="Get what it takes to call an agent's model",
    response_description="With the key in plain text.",
    responses=problems({**_MISSING, 403: "The caller is no backend, or the connection is open to others."}),
)
async def show_llm(
    configs: _Configs, request: Request, caller: _KeyReaderDep, agent_id: _AgentId, response: Response
) -> AgentLLM:
    """Get provider, address, model and key, for a backend that calls the model itself.

    Only for an administrator who has shown a key or the admin token, over TLS or on the mesh's machine.
    """
    if not _is_private(request.scope):
        raise Forbidden(
            "A key leaves the mesh over TLS only, or on its own machine",
            remedy="Call the mesh by https://, or from its own machine without a proxy",
        )
    response.headers["Cache-Control"] = "no-store"
    return await configs.llm(caller, agent_id)


def _is_private(scope: Scope) -> bool:
    """Whether only the caller can read an answer."""
    return scope["scheme"] == "https" or PEER_UID in scope.get("state", {}) or is_local(scope)
