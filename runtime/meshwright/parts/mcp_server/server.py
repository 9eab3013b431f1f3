"""The server: agents and capabilities are tools, calls of them are tasks of the mesh.

The library's own server reads and writes the protocol, in all its versions. It keeps nothing between two
requests: the id of a task is that of the mesh, which any worker knows, before and after a restart.
"""

from __future__ import annotations

import asyncio
import base64
import json
import re
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from mcp import types
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import Server
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp.server.subscriptions import InMemorySubscriptionBus, ListenHandler, ToolsListChanged
from mcp.shared.exceptions import MCPError
from mcp.types.version import MODERN_PROTOCOL_VERSIONS
from starlette.types import Receive, Scope, Send

from meshwright import File, MeshError, TaskRequest
from meshwright.agents.prompts.sources import PromptContext, PromptSources
from meshwright.component import Caller, Mesh, NotFound, Operations, record_refusal
from meshwright.core import __version__
from meshwright.core.tracing import valid_trace
from meshwright.engine.work.protocol import DEFAULT_TENANT
from meshwright.engine.work.record import TaskView
from meshwright.kit import ID_PATTERN, Forbidden, HostError, PromptError, Registry, Role, has_role, topics
from meshwright.mesh.identity.rules import answerable
from meshwright.parts.mcp_server import wire
from meshwright.parts.mcp_server.exchange import EXCHANGE, Exchange
from meshwright.parts.mcp_server.settings import McpEndpointSettings

TASKS = "io.modelcontextprotocol/tasks"
IDEMPOTENCY_KEY = "meshwright/idempotencyKey"
"""The key in `_meta` of a call under which it makes one task, however often it is sent."""
_Context = ServerRequestContext[Any, Any]
_STEP_SECONDS = 2.0  # between two reports of progress
_MAX_RESOURCES = 50
_URI = re.compile(r"mesh://tasks/([A-Za-z0-9_-]{1,64})(?:/files/([0-9]{1,6}))?")
_ANY_TASK = {
    "type": "object",
    "properties": {"text": {"type": "string", "description": "The request, in words."}},
    "required": ["text"],
}
_TASK_ID = {"type": "string", "pattern": ID_PATTERN, "description": "The id of the task."}
_INSTRUCTIONS = (
    "Each tool gives a task to an agent of the mesh, or to the best one for a capability. A task goes on "
    "when the client leaves, and has one outcome, which its id finds."
)


class _Tool(NamedTuple):
    """A tool, and what the request of its task has beside the payload."""

    definition: types.Tool
    target: dict[str, Any]
    is_asynchronous: bool
    """Whether its tasks take longer than a caller waits, as the capability says."""


def _follow_up(
    name: str, title: str, description: str, fields: Mapping[str, Any], required: list[str]
) -> types.Tool:
    schema = {
        "type": "object",
        "properties": {"task_id": _TASK_ID, **fields},
        "required": ["task_id", *required],
    }
    return types.Tool(name=name, title=title, description=description, input_schema=schema)


_FOLLOW_UPS = {
    tool.name: tool
    for tool in (
        _follow_up(
            "mesh_get_task",
            "Get a task",
            "Waits for the outcome of a task that had not ended when its call returned, and returns it.",
            {},
            [],
        ),
        _follow_up(
            "mesh_answer_task",
            "Answer a task",
            "Answers the question that a task waits for, and waits for its outcome.",
            {
                "text": {
                    "type": "string",
                    "description": "The answer: text, or JSON where the question says so.",
                },
                "key": {"type": "string", "description": "The key of the question, where there are several."},
                "anyway": {
                    "type": "boolean",
                    "description": "Answer it although somebody else is looking at it: ask your user first.",
                },
            },
            ["text"],
        ),
        _follow_up("mesh_cancel_task", "Cancel a task", "Cancels a task.", {}, []),
    )
}
"""The tools of clients that do not know tasks."""


class _TaskParams(types.RequestParams):
    """The parameters of `tasks/get` and `tasks/cancel`."""

    task_id: str


class _UpdateParams(_TaskParams):
    """The parameters of `tasks/update`."""

    input_responses: dict[str, Any]


class MeshServer:
    """Serves requests of all clients. `start` and `close` belong to the loop of the mesh."""

    def __init__(self, mesh: Mesh, settings: McpEndpointSettings) -> None:
        self._mesh = mesh
        self._settings = settings
        self._bus = InMemorySubscriptionBus()
        self._listening = ListenHandler(self._bus)
        self._listed = ""
        server = Server[Any](
            "meshwright",
            title="Meshwright",
            version=__version__,
            instructions=_INSTRUCTIONS,
            get_tool_input_schema=self._input_schema,
            on_list_tools=self._list_tools,
            on_call_tool=self._call_tool,  # type: ignore[arg-type] the extension has a third kind of result
            on_list_resources=self._list_resources,
            on_list_resource_templates=self._list_templates,
            on_read_resource=self._read_resource,
            on_list_prompts=self._list_prompts,
            on_get_prompt=self._get_prompt,
            on_subscriptions_listen=self._listen,
        )
        server.middleware.clear()  # the mesh has spans of its own, which begin where the client's trace ends
        server.extensions[TASKS] = dict[str, Any]()
        server.add_request_handler("tasks/get", _TaskParams, self._get_task)
        server.add_request_handler("tasks/update", _UpdateParams, self._update_task)
        server.add_request_handler("tasks/cancel", _TaskParams, self._cancel_task)
        # Hosts and origins were checked at the gate of the API, sizes before the body was read.
        self._manager = StreamableHTTPSessionManager(server, stateless=True)
        self._ended = asyncio.Event()
        self._holder: asyncio.Task[None] | None = None
        self._unlisten: Callable[[], None] = lambda: None

    async def start(self) -> None:
        """Begin to take requests."""
        ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._holder = asyncio.create_task(self._hold(ready), name="mcp server requests")
        await ready
        self._listed = self._signature()
        self._unlisten = self._mesh.runtime.listen(topics.AGENTS, lambda _: self._note_change(), sealed=True)

    async def _hold(self, ready: asyncio.Future[None]) -> None:
        """Keep the library's task group, which one task has to open and to close."""
        async with self._manager.run():
            ready.set_result(None)
            await self._ended.wait()

    async def close(self) -> None:
        """End all requests."""
        self._unlisten()
        self._listening.close()
        self._ended.set()
        if self._holder is not None:
            await self._holder

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, which has an `Exchange` in its scope."""
        await self._manager.handle_request(scope, receive, send)

    # Tools

    def _tools(self) -> dict[str, _Tool]:
        """The tools by name: agents, then capabilities, but one with the name of an agent."""
        agents = [agent for agent in self._mesh.get(Registry).agents() if agent.kind != "system"]
        tools: dict[str, _Tool] = {}
        for agent in agents:
            if agent.capabilities:
                description = str(agent.metadata.get("description") or f"Gives a task to {agent.name}.")
                definition = types.Tool(
                    name=agent.agent_id,
                    title=agent.name,
                    description=description,
                    input_schema=_schema(agent.capabilities[0].input_schema),
                )
                first = agent.capabilities[0]
                tools[agent.agent_id] = _Tool(definition, {"agent_id": agent.agent_id}, first.asynchronous)
        for agent in agents:
            for capability in agent.capabilities:
                if capability.name not in tools:
                    names = [other.agent_id for other in agents if other.capability(capability.name)]
                    definition = types.Tool(
                        name=capability.name,
                        description=f"Gives a task to the best of {', '.join(names)}.",
                        input_schema=_schema(capability.input_schema),
                    )
                    tools[capability.name] = _Tool(
                        definition, {"capability": capability.name}, capability.asynchronous
                    )
        patterns = self._settings.tools
        return {
            name: tool
            for name, tool in tools.items()
            if any(fnmatchcase(name, pattern) for pattern in patterns)
        }

    def _input_schema(self, name: str) -> Mapping[str, Any] | None:
        tool = self._tools().get(name)
        return None if tool is None else tool.definition.input_schema

    def _signature(self) -> str:
        return json.dumps([tool.definition.model_dump() for tool in self._tools().values()], sort_keys=True)

    def _note_change(self) -> None:
        """Tell clients that listen where the tools are others: agents come, go and change."""
        if (listed := self._signature()) != self._listed:
            self._listed = listed
            asyncio.get_running_loop().create_task(self._bus.publish(ToolsListChanged()))

    async def _list_tools(self, ctx: _Context, params: Any) -> types.ListToolsResult:
        if not has_role(_exchange(ctx).operations.caller, Role.SUBMITTER):
            return types.ListToolsResult(tools=[])
        tools = [tool.definition for tool in self._tools().values()]
        return types.ListToolsResult(tools=tools if _knows_tasks(ctx) else [*tools, *_FOLLOW_UPS.values()])

    async def _call_tool(self, ctx: _Context, params: types.CallToolRequestParams) -> Any:
        exchange, arguments = _exchange(ctx), params.arguments or {}
        operations = exchange.operations
        try:
            if params.request_state is not None:
                view = await self._see(operations, params.request_state)
                await self._answer(operations, view, params.input_responses or {})
                return self._handle(view) if _knows_tasks(ctx) else await self._result(ctx, view.task_id)
            if params.name in _FOLLOW_UPS and not _knows_tasks(ctx):
                return await self._follow_up(ctx, params.name, arguments)
            tools = self._tools() if has_role(operations.caller, Role.SUBMITTER) else {}
            if params.name not in tools:
                raise MCPError(types.INVALID_PARAMS, f"Unknown tool: {params.name}")
            meta: Mapping[str, Any] = ctx.meta or {}
            key, trace = meta.get(IDEMPOTENCY_KEY), meta.get("traceparent")
            receipt = await operations.submit(
                TaskRequest(payload=arguments, **tools[params.name].target),
                idempotency_key=key if isinstance(key, str) and 0 < len(key) <= 255 else None,
                traceparent=valid_trace(trace if isinstance(trace, str) else None),
            )
            if _knows_tasks(ctx) and tools[params.name].is_asynchronous:
                return self._handle(await operations.see(receipt.task_id))
            return await self._result(ctx, receipt.task_id)
        except HostError:
            raise
        except MeshError as error:
            self._record(ctx, error)
            return types.CallToolResult.model_validate(wire.refused_result(error))

    async def _follow_up(self, ctx: _Context, name: str, arguments: Mapping[str, Any]) -> Any:
        operations = _exchange(ctx).operations
        view = await self._see(operations, arguments.get("task_id"))
        if name == "mesh_cancel_task":
            view = await operations.cancel(view.task_id)
            text = f"Task {view.task_id} is cancelled, or going to be: its agent lets go first"
            return types.CallToolResult(content=[types.TextContent(text=text)])
        if name == "mesh_answer_task":
            await operations.reply(
                view.task_id,
                str(arguments.get("text", "")),
                key=str(arguments.get("key") or ""),
                anyway=arguments.get("anyway") is True,
            )
        return await self._result(ctx, view.task_id)

    async def _result(self, ctx: _Context, task_id: str) -> Any:
        """Wait for the outcome, which is the result of the call; else say how to ask for it."""
        exchange, loop = _exchange(ctx), asyncio.get_running_loop()
        ends_at, count = loop.time() + self._settings.wait_seconds, 0
        while True:
            left = ends_at - loop.time()
            seconds = min(_STEP_SECONDS, max(left, 0.0)) if count else 0.0
            view = await exchange.operations.see(task_id, wait=seconds, leaving=exchange.ending)
            if view.outcome is not None:
                if (error := wire.protocol_error(view.outcome)) is not None:
                    raise MCPError.from_error_data(error)
                return types.CallToolResult.model_validate(wire.call_result(view.outcome))
            waits = answerable(view, exchange.operations.caller)
            if waits and _asks_its_user(ctx):
                requests = wire.input_requests(waits)
                return types.InputRequiredResult.model_validate(
                    {"inputRequests": requests, "requestState": task_id, "resultType": "input_required"}
                )
            is_left = bool(waits) or left <= 0 or exchange.is_stopping()
            if is_left and _knows_tasks(ctx):
                return self._handle(view)
            if is_left:
                return types.CallToolResult(content=[types.TextContent(text=_unfinished(view, waits))])
            await ctx.session.report_progress(count, message=f"Task {task_id}: {wire.status_text(view)}")
            count += 1

    def _handle(self, view: TaskView) -> dict[str, Any]:
        """The result of a call whose client asks for the outcome later: the task, which is durable."""
        return {**wire.task_fields(view, self._keep_days), "resultType": "task"}

    # Tasks

    async def _get_task(self, ctx: _Context, params: _TaskParams) -> dict[str, Any]:
        operations = _require_tasks(ctx, params.task_id)
        return wire.detailed_task(
            await self._see(operations, params.task_id), operations.caller, self._keep_days
        )

    async def _update_task(self, ctx: _Context, params: _UpdateParams) -> dict[str, Any]:
        operations = _require_tasks(ctx, params.task_id)
        await self._answer(operations, await self._see(operations, params.task_id), params.input_responses)
        return {}

    async def _cancel_task(self, ctx: _Context, params: _TaskParams) -> dict[str, Any]:
        operations = _require_tasks(ctx, params.task_id)
        await self._see(operations, params.task_id)
        try:
            await operations.cancel(params.task_id)
        except Forbidden as error:
            self._record(ctx, error)
            raise MCPError(types.INVALID_PARAMS, str(error)) from None
        return {}

    async def _see(self, operations: Operations, task_id: Any) -> TaskView:
        """A task that the caller may see. Those of other tenants are as unknown as any."""
        try:
            if isinstance(task_id, str) and re.fullmatch(ID_PATTERN, task_id):
                return await operations.see(task_id)
        except (NotFound, Forbidden):
            pass
        raise MCPError(types.INVALID_PARAMS, "There is no such task")

    async def _answer(self, operations: Operations, view: TaskView, responses: Mapping[str, Any]) -> None:
        """Give a task the answers to what it waits for. Answers to other questions are ignored."""
        waits = {wait.wait_id: wait for wait in answerable(view, operations.caller)}
        for key, response in responses.items():
            if key in waits:
                response = response.model_dump(by_alias=True) if hasattr(response, "model_dump") else response
                is_answer, value = wire.read_answer(waits[key], response)
                if is_answer:
                    try:
                        await operations.answer(view.task_id, key, value)
                    except HostError:
                        raise
                    except MeshError as error:
                        was_faster = error.status in (404, 409) and error.field != "anyway"  # somebody else
                        if not was_faster:
                            raise MCPError(types.INVALID_PARAMS, str(error)) from None

    @property
    def _keep_days(self) -> float | None:
        return self._mesh.settings.keep_contents_days

    # Resources and prompts

    async def _list_resources(self, ctx: _Context, params: types.PaginatedRequestParams | None) -> Any:
        operations = _exchange(ctx).operations
        if not has_role(operations.caller, Role.VIEWER):
            return types.ListResourcesResult(resources=[])
        cursor = params.cursor if params else None
        try:
            page = await operations.tasks(limit=_MAX_RESOURCES, cursor=cursor)
        except MeshError as error:
            raise MCPError(types.INVALID_PARAMS, str(error)) from None
        resources = [
            types.Resource(
                uri=wire.TASK_URI.format(task_id=task.task_id),
                name=task.task_id,
                title=task.title or f"{task.agent_id or task.capability}: {task.status}",
                mime_type="application/json",
            )
            for task in page.items
        ]
        return types.ListResourcesResult(resources=resources, next_cursor=page.cursor)

    async def _list_templates(self, ctx: _Context, params: Any) -> types.ListResourceTemplatesResult:
        return types.ListResourceTemplatesResult(
            resource_templates=[
                types.ResourceTemplate(
                    uri_template=wire.TASK_URI,
                    name="task",
                    description="A task with its outcome.",
                    mime_type="application/json",
                ),
                types.ResourceTemplate(
                    uri_template=wire.FILE_URI, name="file", description="A file of the outcome of a task."
                ),
            ]
        )

    async def _read_resource(self, ctx: _Context, params: types.ReadResourceRequestParams) -> Any:
        operations, uri = _exchange(ctx).operations, str(params.uri)
        match = _URI.fullmatch(uri)
        try:
            if match is None:
                raise NotFound("There is no such resource")
            if match[2]:
                return types.ReadResourceResult(
                    contents=[_contents(uri, await operations.file(match[1], int(match[2])))]
                )
            view = await operations.see(match[1])
        except (NotFound, Forbidden):
            modern = ctx.protocol_version in MODERN_PROTOCOL_VERSIONS
            code = types.INVALID_PARAMS if modern else _RESOURCE_NOT_FOUND
            raise MCPError(code, "Resource not found", {"uri": uri}) from None
        text = view.model_dump_json()
        contents = types.TextResourceContents(uri=uri, mime_type="application/json", text=text)
        return types.ReadResourceResult(contents=[contents])

    def _prompts(self, caller: Caller) -> PromptSources | None:
        """The prompts of the mesh, which are the operator's: for those who see contents of its tenant."""
        if has_role(caller, Role.CONTENTS) and caller.tenant_id == DEFAULT_TENANT:
            return self._mesh.get(PromptSources)
        return None

    async def _list_prompts(self, ctx: _Context, params: Any) -> types.ListPromptsResult:
        sources = self._prompts(_exchange(ctx).operations.caller)
        prompts: list[types.Prompt] = []
        if sources is None:
            return types.ListPromptsResult(prompts=prompts)
        for name in sources.names():
            try:
                prompt = sources.resolve(name, PromptContext())
            except PromptError:
                continue
            names = (*prompt.variables, *prompt.inputs)
            arguments = [types.PromptArgument(name=variable, required=True) for variable in names]
            prompts.append(
                types.Prompt(name=name, description=prompt.description or None, arguments=arguments)
            )
        return types.ListPromptsResult(prompts=prompts)

    async def _get_prompt(self, ctx: _Context, params: types.GetPromptRequestParams) -> types.GetPromptResult:
        sources = self._prompts(_exchange(ctx).operations.caller)
        try:
            if sources is None:
                raise PromptError("There is no such prompt")
            prompt = sources.resolve(params.name, PromptContext())
            rendered = prompt.render_from(params.arguments or {})
        except MeshError as error:
            raise MCPError(types.INVALID_PARAMS, str(error)) from None
        messages = [message for message in rendered.messages(rendered.request) if message.content]
        return types.GetPromptResult(
            description=prompt.description or None,
            messages=[
                types.PromptMessage(
                    role="assistant" if message.role == "assistant" else "user",  # there is no other
                    content=types.TextContent(text=str(message.content)),
                )
                for message in messages
            ],
        )

    # Subscriptions

    async def _listen(self, ctx: _Context, params: types.SubscriptionsListenRequestParams) -> Any:
        """Tell of changes until the client leaves, its credentials end or the server stops."""
        extra = params.notifications.model_extra or {}
        if "taskIds" in extra:
            _require_capability(ctx)
        with _exchange(ctx).watched() as ends:
            listening = asyncio.ensure_future(self._listening(ctx, params))
            try:
                await asyncio.wait({listening, *ends}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                listening.cancel()
            await asyncio.wait({listening})
        if listening.cancelled():
            return types.SubscriptionsListenResult()
        return listening.result()

    def _record(self, ctx: _Context, error: MeshError) -> None:
        caller = _exchange(ctx).operations.caller
        record_refusal(self._mesh, error, caller=caller, request=f"mcp {ctx.method}", edge="mcp")


_RESOURCE_NOT_FOUND = -32002  # of the versions before 2026-07-28


def _exchange(ctx: _Context) -> Exchange:
    assert ctx.request is not None  # of an HTTP transport, as all are here
    exchange: Exchange = ctx.request.scope[EXCHANGE]
    return exchange


def _capabilities(ctx: _Context) -> types.ClientCapabilities | None:
    return ctx.session.client_capabilities if ctx.protocol_version in MODERN_PROTOCOL_VERSIONS else None


def _knows_tasks(ctx: _Context) -> bool:
    capabilities = _capabilities(ctx)
    return capabilities is not None and TASKS in (capabilities.extensions or {})


def _asks_its_user(ctx: _Context) -> bool:
    capabilities = _capabilities(ctx)
    return capabilities is not None and capabilities.elicitation is not None


def _require_capability(ctx: _Context) -> None:
    if not _knows_tasks(ctx):
        raise MCPError(
            types.MISSING_REQUIRED_CLIENT_CAPABILITY,
            "Missing required client capability",
            {"requiredCapabilities": {"extensions": {TASKS: {}}}},
        )


def _require_tasks(ctx: _Context, task_id: str) -> Operations:
    """The operations of a client that knows tasks, and names the task in its headers as well."""
    if ctx.protocol_version not in MODERN_PROTOCOL_VERSIONS:
        raise MCPError(types.METHOD_NOT_FOUND, "Method not found", ctx.method)
    _require_capability(ctx)
    # The library compares this header for the methods that it knows alone.
    if ctx.request is None or ctx.request.headers.get("mcp-name", task_id) != task_id:
        raise MCPError(types.HEADER_MISMATCH, "The header Mcp-Name is not the taskId")
    return _exchange(ctx).operations


def _schema(schema: Any) -> dict[str, Any]:
    return {"type": "object", **schema} if schema else _ANY_TASK


def _unfinished(view: TaskView, waits: Any) -> str:
    if not waits:
        text = f"Task {view.task_id} goes on: {wire.status_text(view)}."
        return f"{text} Call mesh_get_task with its id for the outcome."
    asked = "\n".join(
        f"- {wait.reason} (key {wait.wait_id}, answer as {_answer_words(wait)})" for wait in waits
    )
    return f"Task {view.task_id} waits for an answer:\n{asked}\nAsk your user, then call mesh_answer_task."


def _answer_words(wait: Any) -> str:
    return f"JSON that fits {json.dumps(wait.answer_schema)}" if wait.answer_schema else "text"


def _contents(uri: str, file: File) -> Any:
    if file.url:
        return types.TextResourceContents(uri=uri, mime_type="text/uri-list", text=file.url)
    if file.media_type.startswith("text/"):
        try:
            return types.TextResourceContents(uri=uri, mime_type=file.media_type, text=file.data.decode())
        except ValueError:
            pass
    blob = base64.b64encode(file.data).decode()
    return types.BlobResourceContents(uri=uri, mime_type=file.media_type, blob=blob)
