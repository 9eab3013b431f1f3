"""OpenAPI documents: what is wrong in one, and what breaks the clients of an older one."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from meshwright import Agent, Capability
from meshwright.core.errors import InvalidInput, MeshError, ToolFailed
from meshwright.testing import ScriptedModel, mesh_for, tool_call
from meshwright.tools import ToolSettings, collect_tools
from meshwright.toolsets.api import ApiTools, OpenApi, breaking_changes
from meshwright.toolsets.code import CodeTools

CONTEXT: Any = None
MERGED = "a0: &a0 {x: 1}\n" + "".join(
    f"a{n}: &a{n}\n  <<: [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 7)
)
BOMB = "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 20))
PARCEL = {
    "type": "object",
    "required": ["id"],
    "properties": {
        "id": {"type": "string"},
        "state": {"type": "string", "enum": ["sent", "lost"]},
        "next": {"$ref": "#/components/schemas/Parcel"},
    },
}


def document() -> dict[str, Any]:
    """A document without any fault."""
    of_parcel = {"application/json": {"schema": {"$ref": "#/components/schemas/Parcel"}}}
    errors = {"default": {"description": "It failed."}}
    path = {"name": "id", "in": "path", "required": True, "schema": {"type": "string"}}
    return {
        "openapi": "3.1.0",
        "info": {"title": "Parcels", "version": "1"},
        "security": [{"key": []}],
        "paths": {
            "/parcels/{id}": {
                "parameters": [path],
                "get": {
                    "operationId": "see",
                    "summary": "See a parcel",
                    "responses": {"200": {"description": "ok", "content": of_parcel}, **errors},
                },
            },
            "/parcels": {
                "post": {
                    "operationId": "send",
                    "requestBody": {"content": of_parcel},
                    "responses": {"201": {"description": "made"}, **errors},
                }
            },
        },
        "components": {
            "schemas": {"Parcel": json.loads(json.dumps(PARCEL))},
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }


Change = Callable[[dict[str, Any]], Any]


def see(found: dict[str, Any]) -> dict[str, Any]:
    return found["paths"]["/parcels/{id}"]["get"]


def send(found: dict[str, Any]) -> dict[str, Any]:
    return found["paths"]["/parcels"]["post"]


def parcel(found: dict[str, Any]) -> dict[str, Any]:
    return found["components"]["schemas"]["Parcel"]


def lines(found: list[Any]) -> list[str]:
    return [f"{at} {problem}" for at, problem in found]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda found: see(found)["responses"].pop("default"), "GET /parcels/{id} names no error"),
        (lambda found: send(found)["responses"].pop("201"), "POST /parcels has no response of success"),
        (lambda found: send(found).update(operationId="see"), "POST /parcels shares the operationId 'see'"),
        (lambda found: send(found).pop("operationId"), "POST /parcels has no operationId"),
        (lambda found: send(found).update(security=[]), "POST /parcels changes something and needs no"),
        (lambda found: send(found).update(requestBody={}), "POST /parcels takes a body without a schema"),
        (
            lambda found: found["paths"]["/parcels/{id}"].pop("parameters"),
            "GET /parcels/{id} does not declare 'id' of its path",
        ),
        (
            lambda found: found["components"]["schemas"].update(Old={"$ref": "#/components/schemas/Older"}),
            "#/components/schemas/Older leads nowhere",
        ),
        (
            lambda found: found["components"]["schemas"].update(Old={"type": "object"}),
            "#/components/schemas/Old is used by no operation",
        ),
        (
            lambda found: parcel(found)["properties"].update(x={"$ref": "https://evil.example/x"}),
            "https://evil.example/x leads nowhere",
        ),
    ],
)
def test_each_fault_is_found_and_a_sound_document_has_none(change: Change, expected: str) -> None:
    assert OpenApi(document()).findings() == []
    changed = document()
    change(changed)
    assert [line for line in lines(OpenApi(changed).findings()) if line.startswith(expected)]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda found: found["paths"].pop("/parcels"), ["POST /parcels is gone"]),
        (
            lambda found: see(found).update(parameters=[{"name": "as", "in": "query", "required": True}]),
            ["GET /parcels/{id} needs the query parameter 'as' now"],
        ),
        (lambda found: send(found)["requestBody"].update(required=True), ["POST /parcels needs a body now"]),
        (
            lambda found: see(found)["responses"].update({"202": see(found)["responses"].pop("200")}),
            ["GET /parcels/{id} does not answer 200 any more"],
        ),
        (
            lambda found: parcel(found).update(required=["id", "state"]),
            ["POST /parcels body needs 'state' now"],
        ),
        (lambda found: parcel(found).update(required=[]), ["GET /parcels/{id} 200 may lack 'id' now"]),
        (
            lambda found: parcel(found)["properties"]["state"].update(enum=["sent"]),
            ["POST /parcels body.state takes no lost any more"],
        ),
        (
            lambda found: parcel(found)["properties"]["state"].update(enum=["sent", "lost", "found"]),
            ["GET /parcels/{id} 200.state may be found now"],
        ),
        (
            lambda found: parcel(found)["properties"]["id"].update(type="integer"),
            ["GET /parcels/{id} 200.id may be integer now", "POST /parcels body.id takes no string any more"],
        ),
        (
            lambda found: parcel(found)["properties"].pop("state"),
            ["GET /parcels/{id} 200 has no 'state' any more"],
        ),
        (lambda found: parcel(found)["properties"].update(more={"type": "string"}), []),
        (lambda found: found["paths"].update({"/letters": found["paths"]["/parcels"]}), []),
        (lambda found: found["paths"].update({"/parcels/{key}": found["paths"].pop("/parcels/{id}")}), []),
    ],
)
def test_change_that_breaks_clients_is_named_once_and_one_that_does_not_is_not(
    change: Change, expected: list[str]
) -> None:
    changed = document()
    change(changed)
    found = lines(breaking_changes(OpenApi(document()), OpenApi(changed)))
    assert found == expected


ODD: list[Any] = [
    *({"type": "array"}, {"type": "array", "items": []}, {"enum": "A"}, {"enum": [{"a": 1}]}, {"type": 5}),
    *(
        {"properties": {"required": ["a"]}},
        {"required": [{"a": 1}]},
        {"required": "a"},
        {"required": [1, "a"]},
    ),
    *({"properties": ["a"]}, {"type": [{"a": 1}]}, "string", ["a"], 5, None),
]


@pytest.mark.parametrize("schema", ODD, ids=str)
def test_an_odd_schema_takes_nothing_else_of_its_document_away(schema: Any) -> None:
    for was, now in ((schema, PARCEL), (PARCEL, schema), (schema, schema)):
        documents = [document(), document()]
        for one, odd in zip(documents, (was, now), strict=True):
            one["components"]["schemas"]["Parcel"] = odd
        del documents[1]["paths"][next(iter(documents[1]["paths"]))]
        before, after = map(OpenApi, documents)
        gone = [finding for finding in breaking_changes(before, after) if finding.problem == "is gone"]
        assert gone and after.findings() is not None


def test_schemas_that_refer_to_one_another_are_compared_once() -> None:
    names = [f"S{number}" for number in range(12)]
    references = {name: {"$ref": f"#/components/schemas/{name}"} for name in names}
    changed = document()
    for found, kind in ((was := document(), "string"), (changed, "integer")):
        schemas = {name: {"properties": {**references, "own": {"type": kind}}} for name in names}
        found["components"]["schemas"] = {**schemas, "Parcel": {"properties": references}}
    problems = lines(breaking_changes(OpenApi(was), OpenApi(changed)))
    assert sum("may be integer now" in problem for problem in problems) == len(names)


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """A repository whose last commit has the sound document."""
    (tmp_path / "openapi.yaml").write_text(yaml.safe_dump(document()))
    who = ["-c", "user.name=Ann", "-c", "user.email=ann@example.com"]
    for command in (["init", "-q", "-b", "main"], ["add", "."], [*who, "commit", "-q", "-m", "API"]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    return tmp_path


async def openapi(workspace: Path, **arguments: str) -> Any:
    [tool] = collect_tools(ApiTools(ToolSettings(workspace)))
    return await tool.call(json.dumps({"path": "openapi.yaml", **arguments}), CONTEXT)


async def test_document_of_the_workspace_is_compared_with_a_revision(workspace: Path) -> None:
    changed = document()
    del changed["paths"]["/parcels"]
    (workspace / "openapi.yaml").write_text(json.dumps(changed))
    found = await openapi(workspace, against="main")
    assert found["operations"] == ["GET /parcels/{id}: See a parcel"]
    assert (found["findings"], found["breaking"]) == ([], ["POST /parcels is gone"])
    assert "breaking" not in await openapi(workspace)


class Designer(Agent):
    """Designs an API."""

    agent_id = "designer"
    capabilities = (Capability("api-design"),)
    toolsets = (ApiTools, CodeTools)
    prompt_text = "Design."
    remembers = False


@pytest.mark.needs("git", "bwrap")
async def test_change_in_the_tree_of_a_task_is_compared_with_its_beginning(workspace: Path) -> None:
    model = ScriptedModel(
        tool_call("edit", path="openapi.yaml", old="  /parcels:", new="  /letters:"),
        tool_call("openapi", path="openapi.yaml", in_tree=True),
        tool_call("openapi", path="openapi.yaml", in_tree=True, against="main"),
        "Designed.",
    )
    async with mesh_for(Designer, model=model, trees={"api": {"repository": str(workspace)}}) as mesh:
        receipt = await mesh.submit(agent_id="designer", payload={"text": "Rename."}, repository="api")
        await mesh.outcome(receipt.task_id)
    _, found, refused = [item.content for item in model.requests[-1].messages if item.role == "tool"]
    assert json.loads(found)["breaking"] == ["POST /parcels is gone"]
    assert "A tree is compared with its beginning" in refused


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("openapi: 2.0", "no document of OpenAPI 3"),
        ("- a list", "no document of OpenAPI 3"),
        ("a: &a [1]\nb: &b [*a, *b]", "more than 500,000 values"),
        (BOMB, "more than 500,000 values"),
        (MERGED, "more than 500,000 values"),
        ("[" * 50_000, "more than 100 levels deep"),
        ("{{", "is no YAML"),
    ],
)
async def test_text_that_is_no_document_is_refused(workspace: Path, text: str, complaint: str) -> None:
    (workspace / "openapi.yaml").write_text(text)
    with pytest.raises(MeshError, match=complaint):
        await openapi(workspace)


@pytest.mark.parametrize(
    "arguments",
    [{"path": "../openapi.yaml"}, {"path": ".git/config"}, {"against": "--output=x"}, {"path": ".env"}],
)
async def test_place_outside_of_the_workspace_or_a_flag_is_refused(
    workspace: Path, arguments: dict[str, str]
) -> None:
    with pytest.raises(InvalidInput):
        await openapi(workspace, **arguments)
    with pytest.raises(ToolFailed, match="git rev-parse failed"):
        await openapi(workspace, against="nothing")
