"""Routes that follow from operations: the request is read, and the answer written, as the signature says."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property, partial
from inspect import Parameter, Signature, isawaitable, signature
from types import NoneType
from typing import Annotated, Any, NamedTuple, get_args, get_type_hints

from fastapi import APIRouter, Path, Query, Request, Response
from pydantic import BaseModel, ValidationError, create_model

from meshwright.core.operations import Input, OperationSpec, get_operations
from meshwright.core.tracing import valid_trace
from meshwright.edges.bodies import InvalidFields, read_json
from meshwright.edges.http.errors import CALLER, JsonLine, router_kind
from meshwright.edges.http.events import leaving
from meshwright.edges.http.routing import Endpoint, make_router, problems, read_body, request_words
from meshwright.mesh.identity.operations import check_early

_TRACE, _CALLER, _LEAVING = "traceparent", "caller", "leaving"


class _RequestModels(NamedTuple):
    """The models of a request's path, and of its body or query, which may be one argument as a `whole`."""

    path: type[BaseModel] | None
    fields: type[BaseModel] | None
    whole: str
    has_body: bool
    takes_trace: bool
    takes_leaving: bool


class OperationEndpoint(Endpoint):
    """Answers requests for an operation of a class. FastAPI reads its signature to document it.

    The signature is evaluated with the first request or the document, whichever comes first: a start is
    faster without.
    """

    def __init__(self, kind: type[Any], operation: OperationSpec) -> None:
        super().__init__(operation.rule)
        self._kind = kind
        self._operation = operation
        self.__name__ = self.__qualname__ = operation.name
        self.__doc__ = operation.method.__doc__

    async def __call__(self, request: Request) -> Response:
        """Answers a request. Raises what the operation raises, TooLarge, MalformedJson, InvalidFields."""
        mesh, caller, declared = request.app.state.mesh, request.scope[CALLER], self._operation
        models, does = self._models, request_words(request)
        if models.has_body:  # before anything of the body is read
            await check_early(mesh, caller, self.rule, does)
            body = await read_body(request, mesh.settings)
            values = read_json(body, mesh.settings, router_kind(request.scope).max_body)
        else:
            self.rule.check(caller, does)
            values = dict(request.query_params)
        arguments = self._arguments(request.path_params, values)
        if declared.takes_caller:
            target, arguments[_CALLER] = mesh.get(self._kind), caller
        else:
            target = self._kind(mesh, caller)
        if models.takes_trace:
            arguments[_TRACE] = valid_trace(request.headers.get(_TRACE))
        if models.takes_leaving:
            arguments[_LEAVING] = partial(leaving, request)
        answer = declared.method(target, **arguments)
        if isawaitable(answer):
            answer = await answer
        status = declared.status
        if declared.created:
            answer, is_new = answer
            status = 201 if is_new else status
        headers = {name: value.format(answer) for name, value in declared.headers.items()}
        if status == 204 or declared.text:
            return Response(answer, status, headers, declared.text or None)
        return JsonLine(answer, status, headers)

    async def check_early(self, request: Request) -> None:
        """Raises what the operation is sure to raise, whatever its body says."""
        await check_early(request.app.state.mesh, request.scope[CALLER], self.rule, request_words(request))

    def _arguments(self, in_path: Mapping[str, str], values: Any) -> dict[str, Any]:
        models, errors = self._models, list[Any]()
        path = _read_part(models.path, in_path, "path", errors)
        source = "body" if models.has_body else "query"
        request = _read_part(models.fields, values, source, errors)
        if errors:
            raise InvalidFields.from_problems(errors, models.fields)
        arguments = {} if path is None else dict(path)
        if request is None:
            return arguments
        if models.whole:
            return {**arguments, models.whole: request}
        fields = type(request).model_fields
        return {**arguments, **{name: value for name, value in request if not fields[name].exclude}}

    @cached_property
    def _models(self) -> _RequestModels:
        declared = self._operation
        verb, path, query = declared.target
        has_body = verb in ("POST", "PUT", "PATCH") and not query
        parameters = dict(list(signature(declared.method).parameters.items())[1:])
        hints = get_type_hints(declared.method, include_extras=True)
        in_path = {name: (hints[name], ...) for name in parameters if f"{{{name}}}" in path}
        others = {
            name: (hints[name], ... if parameter.default is Parameter.empty else parameter.default)
            for name, parameter in parameters.items()
            if name not in in_path
            and name not in (_TRACE, _CALLER, _LEAVING)
            and parameter.kind is not Parameter.VAR_KEYWORD
        }
        whole, fields = "", declared.request
        if not fields and len(others) == 1:
            [(name, (hint, _))] = others.items()
            if isinstance(hint, type) and issubclass(hint, BaseModel):
                whole, fields = name, hint
        if isinstance(fields, str):
            fields = _model(fields or declared.name, others, declared.about) if others else None
        path_model = _model("Path", in_path) if in_path else None
        has_body = has_body and fields is not None
        special = _TRACE in parameters, _LEAVING in parameters
        return _RequestModels(path_model, fields, whole, has_body, *special)

    @property
    def __signature__(self) -> Signature:
        models = self._models
        hints = get_type_hints(self._operation.method, include_extras=True)
        annotations: dict[str, Any] = {}
        if models.path is not None:
            for name, field in models.path.model_fields.items():
                annotations[name] = Annotated[hints[name], Path(description=field.description)]
        if models.fields is not None:
            annotations["request"] = models.fields if models.has_body else Annotated[models.fields, Query()]
        return Signature(
            [Parameter(name, Parameter.KEYWORD_ONLY, annotation=hint) for name, hint in annotations.items()],
            return_annotation=self.answer,
        )

    @property
    def answer(self) -> Any:
        """The type of the answer; None if it has no body, or text."""
        hint = get_type_hints(self._operation.method, include_extras=True)["return"]
        if self._operation.created:
            return get_args(hint)[0]
        return None if hint is NoneType or self._operation.text else hint


def _model(name: str, fields: Mapping[str, Any], about: str = "") -> type[BaseModel]:
    return create_model(name, __base__=Input, __doc__=about or None, **fields)


def _read_part(
    model: type[BaseModel] | None, values: Any, source: str, errors: list[Any]
) -> BaseModel | None:
    if model is None:
        return None
    try:
        return model.model_validate(values)
    except ValidationError as error:
        faults = error.errors(include_url=False, include_input=False)
        errors += [{**fault, "loc": (source, *fault["loc"])} for fault in faults]
        return None


def make_routes(kind: type[Any], *tags: str, **options: Any) -> APIRouter:
    """Makes a router with the operations of a class below some tags; those without one have the first.

    `make_router` documents the options and says how it answers.
    """
    router = make_router(**options)
    for declared in get_operations(kind).values():
        if declared.route and (declared.tag or tags[0]) in tags:
            add_operation(router, kind, declared, tags[0])
    return router


def add_operation(router: APIRouter, kind: type[Any], declared: OperationSpec, tag: str) -> None:
    """Adds the route of an operation, below its own tag or another one."""
    verb, path, _ = declared.target
    endpoint, responses = OperationEndpoint(kind, declared), problems(dict(declared.errors))
    if declared.created:
        responses[201] = {"model": endpoint.answer, "description": declared.created}
    if declared.text:
        responses[200] = {"content": {declared.text.partition(";")[0]: {"schema": {"type": "string"}}}}
    router.add_api_route(
        path,
        endpoint,
        methods=[verb],
        status_code=declared.status,
        summary=declared.summary,
        tags=[declared.tag or tag],
        responses=responses,
        response_class=Response if declared.text else JsonLine,
        response_description=declared.response,
    )
