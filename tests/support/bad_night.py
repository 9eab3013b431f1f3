"""A mesh in a bad night: models are away, people are waited for, money has run out, and names are long.

Its models are real deployments over HTTP at a fake provider that fails as providers do.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, Field

from benchmarks.grown import grow
from meshwright import Agent, Capability, Run, Task, TaskRequest, tool
from meshwright.agents.context.memory import MemoryItem, MemoryStore
from meshwright.mesh.orchestration.tasks import Tasks
from tests.support.doubtful_mesh import Payer
from tests.support.fake_chats import WHSEC
from tests.support.fake_provider import FakeProvider, Fault, tool_call
from tests.support.http_mesh import Api, Echo, http_mesh
from tests.support.interrupted_mesh import kept
from tests.support.page import ADMIN, TOKEN
from tests.support.webhook_mesh import deliver, issue, webhooks

TASKS = 10_000
SEARCH_SECONDS = 60
LONG_WORD = "Donaudampfschifffahrtsgesellschaftskapitaen" * 4
ARABIC = "تعذر الوصول إلى خدمة الدفع منذ منتصف الليل ويؤثر ذلك على جميع العملاء"
TITLE = (
    "checkout answers 503 since 21:40, users in the EU are affected, and the alert CheckoutErrorRate is "
    "firing for the fifth time tonight although the pool of connections was raised twice"
)
TEXTS = (TITLE, LONG_WORD, ARABIC, "<b onclick='x()'>bold</b> <img src=x onerror=alert(1)>", "你好 🚀 " * 30)
EXPERIMENT = "a kinder tone in answers to customers of the shop at night"
LONG_NAME = "reconciler-of-orders-with-the-warehouse-of-the-european-union-01"
PLAN = """\
--- deployment/{service}
+++ deployment/{service}
@@ -12,4 +12,4 @@
   name: {service}
-  replicas: 3
+  replicas: {replicas}
-      - image: registry.internal/{service}:2026.11.20-1
+      - image: {image}
"""


class Handover(BaseModel):
    """The orders for the night shift."""

    action: Literal["roll back", "scale up", "wait until morning"]
    replicas: int = Field(default=3, ge=1, le=20)
    call_the_owner: bool = False
    note: str = Field(default="", description="What the next shift must know", max_length=500)


class Roller(Agent):
    """Changes services, each change with an approval."""

    agent_id = "deployer"
    capabilities = (Capability("deployments"),)
    prompt_text = "You deploy."
    remembers = False

    @tool(needs_approval=True, preview="_plan")
    async def apply_change(self, service: str, replicas: int, image: str) -> str:
        """Roll a service to an image and a number of replicas."""
        return "rolled out"

    async def _plan(self, service: str, replicas: int, image: str) -> str:
        return PLAN.format(service=service, replicas=replicas, image=image)

    @tool(needs_approval=True)
    async def notify(self, who: str, text: str) -> str:
        """Notify somebody."""
        return "notified"


class Clerk(Agent):
    """Asks a person by a form."""

    agent_id = "clerk"
    capabilities = (Capability("handover"),)
    remembers = False

    async def run(self, run: Run) -> str:
        about = {"service": "checkout", "errors per minute": 412, "since": "21:40", "note": LONG_WORD}
        orders = await run.ask_person(
            f"{run.task.text}: what shall the night shift do?", shape=Handover, about=about
        )
        return orders.action


class Importer(Agent):
    """Fails in the ways of programs, or waits."""

    agent_id = LONG_NAME
    capabilities = (Capability("import-of-orders-from-the-warehouse"),)
    remembers = False

    async def run(self, run: Run) -> str:
        match run.task.payload.get("way"):
            case "csv":
                raise ValueError(f"line 1042: expected 7 columns, got 6: '2026-11-24;{LONG_WORD};503;;;'")
            case "field":
                raise KeyError("order_id")
            case "host":
                raise ConnectionRefusedError(111, "Connect call failed ('127.0.0.1', 5432)")
            case "later":
                await run.sleep(hours=3)
        await run.step("read the file", self._read)
        return "imported 1,204 rows"

    async def _read(self) -> str:
        await asyncio.Event().wait()
        return ""


class Translator(Agent):
    """Translates by a model that is away."""

    agent_id = "translator"
    capabilities = (Capability("translation"),)
    prompt_text = "You translate."
    model = "flaky-translations-of-the-night"
    remembers = False


class Mailer(Agent):
    """Writes mails by a model whose key was revoked."""

    agent_id = "mailer"
    capabilities = (Capability("mail"),)
    prompt_text = "You write mails."
    model = "refused"
    remembers = False


class Analyst(Agent):
    """Answers questions, and has others answer."""

    agent_id = "analyst"
    capabilities = (Capability("analysis"),)
    delegates_to = ("helper",)
    prompt_text = "You analyse."
    remembers = False

    async def run(self, run: Run) -> str:
        await run.ask(run.task.text)
        return await run.delegate("helper", run.task.text)


class NightHelper(Agent):
    """Helps, by a model."""

    agent_id = "helper"
    capabilities = (Capability("helping"),)
    prompt_text = "Help."
    remembers = False


class Spender(Agent):
    """Calls an expensive model, for which there is no money."""

    agent_id = "spender"
    capabilities = (Capability("spending"),)
    prompt_text = "You spend."
    remembers = False

    def tags(self, task: Task) -> tuple[str, ...]:
        return ("expensive",)


AGENTS = (Roller, Clerk, Importer, Translator, Mailer, Analyst, NightHelper, Spender)
GROUPS = ("default", "flaky-translations-of-the-night", "refused")


@dataclass
class BadNight:
    """The mesh, and what has a page of its own."""

    api: Api
    provider: FakeProvider
    failed: str
    tree: str


def _problem(message: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": "server_error"}}


def _configuration(provider: FakeProvider) -> str:
    prices = {"input_cost_per_token": 0.001, "output_cost_per_token": 0.002, "max_input_tokens": 128_000}
    deployments = [
        {
            "model_name": group,
            "litellm_params": {
                "model": f"openai/{group}",
                "api_base": f"{provider.at(group)}/v1",
                "api_key": "sk-fake",
            },
            "model_info": prices,
        }
        for group in GROUPS
    ]
    return yaml.safe_dump({"model_list": deployments})


async def _yesterday(folder: Path, tasks: int) -> None:
    """Leave a store with many tasks, and a payment that was running when the mesh was killed."""
    async with kept(folder, Echo) as mesh:
        receipt = await mesh.get(Tasks).submit(TaskRequest(agent_id="echo", payload={"text": TITLE}))
        await mesh.get(Tasks).outcome(receipt.task_id)
        await mesh.log.flush()
        data = folder / mesh.settings.data_dir
    if tasks:
        grow(data, tasks)
    Payer.paid, Payer.began, Payer.holds = [], asyncio.Event(), True
    async with kept(folder, Payer) as mesh:
        await mesh.get(Tasks).submit(TaskRequest(agent_id="payer", payload={"text": "Pay the invoice."}))
        await Payer.began.wait()


async def _asked(api: Api, agent_id: str, text: str, **request: Any) -> str:
    """Submit a task that asks a person; returns its id once it has asked."""
    count = len(await api.client.inbox())
    task_id = await api.submit(agent_id=agent_id, payload={"text": text}, **request)
    async with asyncio.timeout(SEARCH_SECONDS):
        while len(await api.client.inbox()) <= count:
            await asyncio.sleep(0.01)
    return task_id


async def _questions(api: Api, provider: FakeProvider) -> None:
    """Thirteen approvals of several kinds, a form and a purse."""
    for number, service in enumerate(("checkout", "search", "payments", "mail", "login", "cart", "stock")):
        image = f"registry.internal/{service}:2026.11.24-{number}"
        call = {"service": service, "replicas": number + 4, "image": image}
        provider.replies.append(tool_call("apply_change", json.dumps(call)))
        await _asked(api, "deployer", f"Roll {service} to the image of tonight")
    for number, text in enumerate((*TEXTS, "token=Zk3x9Q2pLm8vRt4LpN9bYc3HsJ6d")):
        who = "the shift" if number % 2 else "the customers of order 4711"
        provider.replies.append(tool_call("notify", json.dumps({"who": who, "text": text})))
        await _asked(api, "deployer", text)
    await _asked(api, "clerk", TITLE)
    await _asked(api, "spender", "A forecast for December, by the best model")


async def _troubles(api: Api) -> None:
    """Tasks that have failed or wait, and deliveries that were refused."""
    for way in ("csv", "csv", "field", "host"):
        await api.finished(agent_id=LONG_NAME, payload={"text": TITLE, "way": way}, thread_id="t" * 64)
    for way in ("later", ""):
        await api.submit(agent_id=LONG_NAME, payload={"text": f"{ARABIC} {way}", "way": way})
    for agent_id, text in (("translator", ARABIC), ("translator", TITLE), ("mailer", LONG_WORD)):
        await api.submit(agent_id=agent_id, payload={"text": text})
    for number in range(3):
        await deliver(api, issue(), f"refused-{number}", secret="a secret of somebody else")
    await deliver(api, issue(issue={"number": 7, "title": LONG_WORD}), "d-1")


async def _registers(api: Api) -> None:
    """Prompts, experiments, schedules, allowances, configurations, memories and keys, with long names."""
    variants = [{"name": "now"}, {"name": f"kinder-{LONG_NAME}"[:40], "temperature": 0.2}]
    task = {"agent_id": LONG_NAME, "payload": {"text": TITLE}}
    config = {"agent_id": LONG_NAME, "llm_provider": "ollama", "llm_model": "llama3:70b-instruct-q4_K_M-long"}
    for method, path, body in (
        (
            "POST",
            "/v1/prompts",
            {
                "name": "helper",
                "template": f"Help.\n{LONG_WORD}",
                "message": "Answer in one sentence, at night too. " * 5,
            },
        ),
        ("PUT", "/v1/prompts/helper", {"template": "Help well."}),
        ("POST", "/v1/prompts", {"name": LONG_NAME, "template": ARABIC}),
        ("POST", "/v1/experiments", {"name": EXPERIMENT, "agent_id": "helper", "variants": variants}),
        ("POST", "/v1/evaluations", {"data": {"items": [{"output": LONG_WORD}]}, "metrics": ["length"]}),
        ("POST", "/schedules", {"id": LONG_NAME, "cron": "0 7 * * *", "task": task}),
        ("POST", "/api/agents", config),
        ("PUT", "/allowances", {"whose": LONG_NAME, "allowance": "0.01/day", "on_empty": "ask"}),
        ("POST", "/keys", {"name": f"ada-{LONG_NAME}"[:60], "expires": "30d", "budget": "5/day"}),
    ):
        status, answer = await api.call(method, path, json=body, headers=ADMIN)
        assert status < 300, (path, answer)
    for number, text in enumerate(TEXTS):
        item = MemoryItem(
            memory_id=f"m-{number}", scope="global", text=text, subject="ports", agent_id="helper"
        )
        await api.mesh.get(MemoryStore).remember(item)


@asynccontextmanager
async def bad_night(folder: Path, tasks: int = TASKS) -> AsyncIterator[BadNight]:
    """A mesh with `tasks` old tasks, two dead models of three, many questions, and failures of every kind."""
    async with FakeProvider() as provider:
        file = folder / "litellm_config.yaml"
        file.write_text(_configuration(provider))
        await _yesterday(folder, tasks)
        outage = Fault(status=500, body=_problem("upstream connect error: connection reset by peer"))
        provider.faults_of["flaky-translations-of-the-night"].extend([outage] * 1000)
        refusal = Fault(status=401, body=_problem("Incorrect API key provided"))
        provider.faults_of["refused"].extend([refusal] * 1000)
        chat = {"kind": "http", "agent": "echo", "secret": WHSEC, "url": "http://127.0.0.1:9/in"}
        purse = {"name": "expensive", "scope": "tag", "of": "expensive", "limit_usd": "0", "on_empty": "ask"}
        night = {"name": "all", "scope": "mesh", "limit_usd": "40", "window": "day"}
        settings: dict[str, Any] = {
            "model": "router",
            "models": {"park_seconds": 600, "max_park_seconds": 600},
            "litellm_config": str(file),
            "webhooks": webhooks(),
            "channels": {"chat": chat, "team": chat | {"kind": "mattermost", "token": "x"}},
            "budgets": [purse | {"window": "day"}, night],
            "admin_token": TOKEN,
        }
        Payer.holds = False
        async with http_mesh(folder, *AGENTS, Payer, **settings) as api:
            await _questions(api, provider)
            tree = await api.finished(agent_id="analyst", payload={"text": TITLE})
            failed = await api.finished(agent_id="echo", payload={"fail": True})
            await _troubles(api)
            await _registers(api)
            yield BadNight(api, provider, failed, tree)
