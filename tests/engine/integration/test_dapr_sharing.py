"""Tables that a front on Dapr shares with a worker without a database, which reads them without a call."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from meshwright import Agent, Capability
from meshwright.agents.prompts import PromptContext
from meshwright.core.access import Role
from meshwright.core.encoding import MAX_RECORD_BYTES
from meshwright.core.errors import HostError, StoreUnavailable
from meshwright.core.messages import Caller
from meshwright.engine.kernel.envelope import ActorRef
from meshwright.engine.kernel.runtime import Runtime
from meshwright.engine.stores.dapr import DaprStore, Options
from meshwright.engine.stores.dapr.sidecar import Sidecar
from meshwright.mesh.app import WHOLE_MESH, StoreDeps, build_mesh, process_role
from meshwright.mesh.mesh import Mesh
from meshwright.parts.agent_config.operations import AgentConfigs
from meshwright.parts.agent_config.records import AgentConfigRequest, AgentConfigUpdate
from meshwright.parts.llmops.live_prompts import SharedPrompts
from meshwright.parts.llmops.operations import PromptRegistry
from meshwright.parts.llmops.records import PromptChange, PromptRequest
from meshwright.parts.llmops.table import Live
from meshwright.parts.stack.machine import Ports
from meshwright.testing import ScriptedModel
from tests.run import DAPR
from tests.support.services import Services
from tests.support.settings import load_settings

pytestmark = [pytest.mark.needs(*DAPR)]
SECONDS = 20.0
ADMINS = {
    tenant: Caller(requested_by="ada", tenant_id=tenant, key_id="key", roles=frozenset({Role.ADMIN}))
    for tenant in ("acme", "other")
}


class Greeter(Agent):
    """Greets as its prompt says."""

    agent_id = "greeter"
    capabilities = (Capability("greeting"),)
    prompt_text = "Greet as the code says."


Start = Callable[[str], Awaitable[Mesh]]


@pytest.fixture
async def start(services: Services, ports: Ports, tmp_path: Path) -> AsyncIterator[Start]:
    """Starts the workers of a mesh: `front`, and any other as a replica."""
    namespace = f"p{tmp_path.name[-12:]}".replace("_", "-").lower()
    async with AsyncExitStack() as stack:

        async def start(name: str) -> Mesh:
            [port] = ports.take(1)
            sidecar = services.daprd("mesh", port=port, namespace=namespace, pod=f"{name}_{namespace}")
            app = sidecar.app

            def make(deps: StoreDeps) -> Runtime:
                options = Options(
                    replica=app.pod,
                    namespace=namespace,
                    grpc_port=app.grpc_port,
                    app_port=port,
                    api_token=app.api_token,
                    app_token=app.app_token,
                    broker_url=services.broker_url,
                )
                is_front = deps.role.is_front
                of_deps = {"clock": deps.clock, "log": deps.log, "database": deps.database}
                return deps.runtime(DaprStore(options, keeps_log=is_front, **of_deps))

            settings = load_settings(tmp_path, data_dir=tmp_path / name, store="dapr", namespace=namespace)
            role = process_role(settings, WHOLE_MESH, ["greeter"], replica=name != "front")
            parts: dict[str, Any] = {"agents": [Greeter], "model": ScriptedModel(), "role": role}
            mesh = build_mesh(settings, project=tmp_path, runtime=make, **parts)
            stack.callback(sidecar.end)
            sidecar.launch()
            return await stack.enter_async_context(mesh)

        yield start


@pytest.fixture
def no_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    """No sidecar answers a call of an actor."""

    async def refuse(self: Sidecar, ref: ActorRef, method: str, body: bytes) -> bytes:
        raise StoreUnavailable(f"did not find address for actor {ref}")

    monkeypatch.setattr(Sidecar, "invoke", refuse)


def refuse_once(front: Mesh, monkeypatch: pytest.MonkeyPatch) -> list[ActorRef]:
    """Let a front's next try to share something fail; the result has its actor by then."""
    share, refusals = front.share, list[ActorRef]()

    async def refuse(ref: ActorRef, state: Any) -> None:
        if not refusals:
            refusals.append(ref)
            raise StoreUnavailable("the store is away")
        await share(ref, state)

    monkeypatch.setattr(front, "share", refuse)
    return refusals


def text(mesh: Mesh, tenant_id: str = "acme", version: int | None = None) -> str | None:
    """The prompt that a run of the greeter has in a process; None where it has to take that of the code."""
    context = PromptContext(tenant_id=tenant_id, agent_id="greeter", task_id="t", version=version)
    prompt = mesh.get(PromptRegistry).resolve("greeter", context)
    return None if prompt is None else prompt.body.strip()


async def until(mesh: Mesh, body: str | None, version: int | None = None) -> None:
    """Wait until a process has this prompt."""
    async with asyncio.timeout(SECONDS):
        while True:
            try:
                if text(mesh, version=version) == body:
                    return
            except HostError:
                pass  # it is not read yet
            await asyncio.sleep(0.01)


async def register(mesh: Mesh, first: str, *later: str, tenant_id: str = "acme") -> None:
    """Register a prompt with its versions."""
    registry, caller = mesh.get(PromptRegistry), ADMINS[tenant_id]
    await registry.register(caller, PromptRequest(name="greeter", template=first))
    for template in later:
        await registry.change(caller, "greeter", PromptChange(template=template))


async def release(mesh: Mesh, version: int, tenant_id: str = "acme") -> None:
    """Have the agents of a tenant use a version."""
    await mesh.get(PromptRegistry).label(ADMINS[tenant_id], "greeter", "production", version)


@pytest.mark.usefixtures("no_calls")
async def test_a_worker_reads_what_the_front_shares_without_a_call(start: Start) -> None:
    front = await start("front")
    await register(front, "Of acme 1.", "Of acme 2.", "Of acme 3.")
    await release(front, 1)
    worker = await start("worker")
    await until(worker, "Of acme 1.")
    assert text(worker, "other") is None
    await register(front, "Of other.", tenant_id="other")
    await release(front, 1, "other")
    for version in (2, 1):
        await release(front, version)
        await until(worker, f"Of acme {version}.")
    assert text(worker, "other") == "Of other."
    await front.get(PromptRegistry).prepare(Live(tenant_id="acme", name="greeter", version=3))
    await until(worker, "Of acme 3.", version=3)
    assert text(worker) == "Of acme 1."
    await front.get(PromptRegistry).remove(ADMINS["acme"], "greeter")
    await until(worker, None)


@pytest.mark.usefixtures("no_calls")
async def test_a_change_is_shared_once_the_store_takes_it(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    front, worker = await start("front"), await start("worker")
    await register(front, "One.")
    refusals = refuse_once(front, monkeypatch)
    await release(front, 1)
    assert refusals and text(front) == "One."
    await until(worker, "One.")


@pytest.mark.usefixtures("no_calls")
async def test_configurations_of_agents_are_read_without_a_call(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    front, worker = await start("front"), await start("worker")
    configs, of_worker = front.get(AgentConfigs), worker.get(AgentConfigs)

    async def until_named(model: str) -> None:
        async with asyncio.timeout(SECONDS):
            while (config := of_worker.last_read("acme", "greeter")) is None or config.model != model:
                await asyncio.sleep(0.01)

    first = {"agent_id": "greeter", "llm_provider": "openai", "llm_model": "small"}
    await configs.create_config(ADMINS["acme"], AgentConfigRequest.model_validate(first))
    await until_named("openai/small")
    assert of_worker.last_read("other", "greeter") is None
    refusals = refuse_once(front, monkeypatch)
    await configs.change_config(ADMINS["acme"], "greeter", AgentConfigUpdate(llm_model="large"))
    await until_named("openai/large")
    assert refusals


@pytest.mark.usefixtures("no_calls")
async def test_a_front_that_has_lost_its_database_shares_what_it_has_now(
    start: Start, tmp_path: Path
) -> None:
    front = await start("front")
    await register(front, "Before.")
    await release(front, 1)
    await front.stop()
    shutil.rmtree(tmp_path / "front")
    front = await start("front")
    await register(front, "After.")
    await release(front, 1)
    await until(await start("worker"), "After.")


async def test_a_worker_asks_the_front_for_what_is_not_shared(start: Start) -> None:
    front, worker = await start("front"), await start("worker")
    await register(front, "One.", "Two.")
    await until(worker, "Two.", version=2)
    state = await worker.runtime.read(ActorRef("prompt-version", "acme:greeter:2"))
    assert state.text.endswith("Two."), "it is shared from then on"
    too_large, item = "x" * (MAX_RECORD_BYTES + 1), Live(tenant_id="acme", name="greeter", version=2)
    await SharedPrompts(front).share_text(item, too_large)
    assert (await worker.runtime.read(ActorRef("prompt-version", "acme:greeter:2"))).text == ""
    assert (await SharedPrompts(worker).version_text(item)).endswith("Two.")
