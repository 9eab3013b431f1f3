"""The client without `await`, for programs that have no event loop."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Mapping
from contextlib import ExitStack
from functools import partial, wraps
from os import PathLike
from types import TracebackType
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Self, TypeVar, Unpack, overload

from meshwright.core.messages import AnswerT, Outcome, Receipt, TaskRequest
from meshwright.edges.client.administration import ResourceCalls
from meshwright.edges.client.calls import TaskFields
from meshwright.edges.client.client import Client
from meshwright.edges.client.transports import CALL_SECONDS, DEFAULT_URL, closed_client

if TYPE_CHECKING:
    from anyio.from_thread import BlockingPortal

    from meshwright.mesh.mesh import Mesh

P = ParamSpec("P")
ResultT = TypeVar("ResultT")


def _blocking(
    method: Callable[Concatenate[Any, P], Awaitable[ResultT]],
) -> Callable[Concatenate[Any, P], ResultT]:
    @wraps(method)
    def call(self: Any, *args: P.args, **kwargs: P.kwargs) -> ResultT:
        return self._portal.call(partial(method, self._client, *args, **kwargs))

    return call


def _iterating(
    method: Callable[Concatenate[Any, P], AsyncGenerator[ResultT]],
) -> Callable[Concatenate[Any, P], Generator[ResultT]]:
    @wraps(method)
    def iterate(self: Any, *args: P.args, **kwargs: P.kwargs) -> Generator[ResultT]:
        items = method(self._client, *args, **kwargs)
        try:
            while (item := self._portal.call(anext, items, None)) is not None:
                yield item
        finally:
            self._portal.call(items.aclose)

    return iterate


class _BlockingResourceCalls:
    """`ResourceCalls` without `await`."""

    def __init__(self, calls: ResourceCalls, client: BlockingClient) -> None:
        self._client = calls
        self._owner = client

    @property
    def _portal(self) -> BlockingPortal:
        return self._owner._portal

    list = _blocking(ResourceCalls.list)
    get = _blocking(ResourceCalls.get)
    create = _blocking(ResourceCalls.create)
    put = _blocking(ResourceCalls.put)
    delete = _blocking(ResourceCalls.delete)
    do = _blocking(ResourceCalls.do)


class BlockingClient:
    """`Client` without `await`: the same methods but `open`, arguments, results and errors.

    with BlockingClient("http://127.0.0.1:8000") as mesh:
        print(mesh.ask("simple-agent", "What is a turn?").text)
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        api_key: str | None = None,
        *,
        timeout: float = CALL_SECONDS,
        socket_path: str | PathLike[str] | None = None,
        tenant: str | None = None,
    ) -> None:
        self._client = Client(url, api_key, timeout=timeout, socket_path=socket_path, tenant=tenant)
        self._tenant, self._url = tenant, url
        self._running: BlockingPortal | None = None
        self._mesh: Mesh | None = None

    @classmethod
    def local(cls, mesh: Mesh, *, tenant: str | None = None) -> Self:
        """A client of a mesh that it starts on its thread, and stops at the end."""
        client = cls(tenant=tenant)
        client._mesh = mesh
        return client

    def __enter__(self) -> Self:
        from anyio.from_thread import start_blocking_portal

        with ExitStack() as stack:
            self._running = stack.enter_context(start_blocking_portal())
            if self._mesh is not None:
                stack.enter_context(self._portal.wrap_async_context_manager(self._mesh))
                self._client = Client.local(self._mesh, tenant=self._tenant)
            stack.enter_context(self._portal.wrap_async_context_manager(self._client))
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._stack.close()
        finally:
            self._running = None

    @property
    def _portal(self) -> BlockingPortal:
        """The thread that sends the requests. Raises ClientClosed outside of the `with` block."""
        if self._running is None:
            raise closed_client(self._url)
        return self._running

    def resource(self, name: str) -> _BlockingResourceCalls:
        """The things of a name that a part of the mesh keeps, such as `schedules`. Raises NotFound."""
        return _BlockingResourceCalls(self._client.resource(name), self)

    @overload
    def ask(
        self,
        agent_id: str | TaskRequest = "",
        text: str = "",
        *,
        payload: Mapping[str, Any] | None = None,
        **fields: Unpack[TaskFields],
    ) -> Outcome: ...
    @overload
    def ask(
        self,
        agent_id: str | TaskRequest = "",
        text: str = "",
        *,
        payload: Mapping[str, Any] | None = None,
        shape: type[AnswerT],
        **fields: Unpack[TaskFields],
    ) -> AnswerT: ...
    @overload
    def ask(
        self,
        agent_id: str | TaskRequest = "",
        text: str = "",
        *,
        payload: Mapping[str, Any] | None = None,
        shape: dict[str, Any],
        **fields: Unpack[TaskFields],
    ) -> dict[str, Any]: ...

    @wraps(Client.ask)
    def ask(self, *args: Any, **fields: Any) -> Any:  # noqa: D102 it has that of Client
        return self._portal.call(partial(self._client.ask, *args, **fields))

    @overload
    def outcome(self, task: Receipt | str) -> Outcome: ...
    @overload
    def outcome(self, task: Receipt | str, *, shape: type[AnswerT]) -> AnswerT: ...

    @wraps(Client.outcome)
    def outcome(self, *args: Any, **fields: Any) -> Any:  # noqa: D102 it has that of Client
        return self._portal.call(partial(self._client.outcome, *args, **fields))

    is_alive = _blocking(Client.is_alive)
    call = _blocking(Client.call)
    items = _blocking(Client.items)
    submit = _blocking(Client.submit)
    task = _blocking(Client.task)
    file = _blocking(Client.file)
    tasks = _blocking(Client.tasks)
    steps = _blocking(Client.steps)
    step = _blocking(Client.step)
    transcript = _iterating(Client.transcript)
    cancel = _blocking(Client.cancel)
    cancel_plan = _blocking(Client.cancel_plan)
    retry = _blocking(Client.retry)
    retry_plan = _blocking(Client.retry_plan)
    fork = _blocking(Client.fork)
    retry_all = _blocking(Client.retry_all)
    cancel_all = _blocking(Client.cancel_all)
    answer_all = _blocking(Client.answer_all)
    tree = _blocking(Client.tree)
    export = _blocking(Client.export)
    dead_letters = _blocking(Client.dead_letters)
    answer = _blocking(Client.answer)
    claim = _blocking(Client.claim)
    release_claim = _blocking(Client.release_claim)
    reveal = _blocking(Client.reveal)
    inbox = _blocking(Client.inbox)
    publish = _blocking(Client.publish)
    follow = _iterating(Client.follow)
    stream = _iterating(Client.stream)
    events = _blocking(Client.events)
    last_seq = _blocking(Client.last_seq)
    agents = _blocking(Client.agents)
    scores = _blocking(Client.scores)
    status = _blocking(Client.status)
    figures = _blocking(Client.figures)
    deployments = _blocking(Client.deployments)
    deployment_route = _blocking(Client.deployment_route)
    test_deployments = _blocking(Client.test_deployments)
    budgets = _blocking(Client.budgets)
    raise_budget = _blocking(Client.raise_budget)
    allowances = _blocking(Client.allowances)
    allow = _blocking(Client.allow)
    disallow = _blocking(Client.disallow)
    estimate = _blocking(Client.estimate)
    costs = _blocking(Client.costs)
    models = _blocking(Client.models)
    complete = _blocking(Client.complete)
    keys = _blocking(Client.keys)
    keys_required = _blocking(Client.keys_required)
    rotate_key = _blocking(Client.rotate_key)
    create_key = _blocking(Client.create_key)
    revoke_key = _blocking(Client.revoke_key)
    open_keys = _blocking(Client.open_keys)
    verify_audit = _blocking(Client.verify_audit)
    drain = _blocking(Client.drain)
    hold = _blocking(Client.hold)
    release = _blocking(Client.release)
    prune = _blocking(Client.prune)
    verify_store = _blocking(Client.verify_store)
    erase = _blocking(Client.erase)
    rotate_secrets = _blocking(Client.rotate_secrets)
