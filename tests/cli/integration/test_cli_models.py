"""`mesh models`: what there is, where a call goes, and whether it answers, as a person at a shell sees it."""

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from tests.support.fake_provider import FakeProvider, Fault
from tests.support.mesh_forks import run_forked
from tests.support.running_mesh import Done, mesh_up

SECRET = "sk-never-shown"
CONFIG = """\
model_list:
  - model_name: default
    litellm_params:
      model: openai/gpt-5.4-mini
      api_key: os.environ/ONE_KEY
      api_base: os.environ/FAKE_BASE
      tags: [default, research]
  - model_name: default
    litellm_params:
      model: openai/house-model
      api_key: os.environ/TWO_KEY
      api_base: os.environ/FAKE_BASE
      tags: [cheap, research]
      input_cost_per_token: 1.0e-6
      output_cost_per_token: 2.0e-6
  - model_name: backup
    litellm_params: {model: ollama_chat/llama3.1, api_base: os.environ/NOWHERE, tags: [default]}
router_settings:
  enable_tag_filtering: true
  tag_filtering_match_any: false
  fallbacks:
    - default: [backup]
"""
PROMPT = """\
---
description: A prompt with a slip.
model: default
temperature: 0.0
max_tokens: 10
tags: [reserch]
variables: []
---
Be brief.
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "litellm_config.yaml").write_text(CONFIG)
    (tmp_path / "prompts").mkdir()
    (tmp_path / "actors").mkdir()
    return tmp_path


async def mesh(project: Path, *arguments: str, **environment: str) -> Done:
    """Run `mesh models` with no more of the environment than Python needs, and what is given."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    command = ("models", *arguments)
    code, out, err = await asyncio.to_thread(run_forked, command, {**kept, **environment}, project)
    assert SECRET not in out.decode() + err.decode()
    return Done(code, out.decode(), err.decode())


def row(done: Done, name: str) -> str:
    return next(line for line in done.out.splitlines() if name in line)


async def test_without_a_key_all_is_listed_with_what_it_misses_and_costs(project: Path) -> None:
    done = await mesh(project)
    assert (done.status, done.err) == (0, "")
    assert done.out.startswith("answers: offline (neither LITELLM_BASE_URL nor a provider's key is set)")
    assert row(done, "gpt-5.4-mini").split() == [
        *("default", "openai/gpt-5.4-mini", "default,", "research", "0.75", "4.5", "(list)", "unknown"),
        *("FAKE_BASE,", "ONE_KEY"),
    ]
    assert row(done, "house-model").split()[4:7] == ["1", "2", "unknown"]
    assert "0     0 (local)" in row(done, "llama3.1")
    assert "default falls back to backup" in done.out
    assert sorted(each.name for each in project.iterdir()) == ["actors", "litellm_config.yaml", "prompts"]


async def test_a_prompt_whose_tag_nobody_has_is_a_warning(project: Path) -> None:
    (project / "prompts" / "slip.prompt").write_text(PROMPT)
    done = await mesh(project)
    told = "warning: prompt slip: no deployment of litellm_config.yaml is tagged 'reserch'. Did you mean"
    assert f"{told} 'research'?" in done.out


async def test_a_broken_file_is_one_line_with_its_place(project: Path) -> None:
    (project / "litellm_config.yaml").write_text(
        CONFIG.replace("enable_tag_filtering: true", "default_fallbacks: 7")
    )
    for arguments in ((), ("route",)):
        done = await mesh(project, *arguments)
        assert (done.status, done.out, done.err.count("\n")) == (1, "", 1)
        assert (
            "litellm_config.yaml:19: router_settings.default_fallbacks: expected a list of groups, found int"
            in done.err
        )


async def test_a_route_says_who_is_asked_who_is_not_and_why(project: Path) -> None:
    done = await mesh(project, "route", "--tags", "research", TWO_KEY=SECRET, FAKE_BASE="http://127.0.0.1:1")
    assert done.out.splitlines() == [
        "group default: those tagged research",
        "  openai/house-model  the only one",
        "  not openai/gpt-5.4-mini: set ONE_KEY",
        "  if none answers: group backup: those tagged default, since none is tagged research",
        "    not ollama_chat/llama3.1: set NOWHERE",
        "    No deployment is available: set one of NOWHERE",
    ]


async def test_a_route_says_that_a_server_does_not_read_the_file(project: Path, fake: FakeProvider) -> None:
    head = f"answers: http {fake.url}, which does not read litellm_config.yaml; that file says:\n"
    assert (await mesh(project, "route", LITELLM_BASE_URL=fake.url)).out.startswith(head)
    async with mesh_up(project / ".mesh", cwd=project, LITELLM_BASE_URL=fake.url):
        assert (await mesh(project, "route")).out.startswith(head)


async def test_a_route_is_plain_data_too(project: Path) -> None:
    done = await mesh(project, "route", "--tags", "cheap", "--json", TWO_KEY=SECRET, FAKE_BASE="x")
    found = json.loads(done.out)
    assert (found["group"], found["tags"], found["problem"]) == ("default", ["cheap"], None)
    assert found["asked"] == [
        {
            "deployment": "default/openai/house-model",
            "model": "openai/house-model",
            "share": 1.0,
            "why": "the only one",
            "missing": [],
        }
    ]
    assert [each["group"] for each in found["fallbacks"]] == ["backup"]


async def test_each_usable_deployment_is_called_as_agents_do_and_stays_known(
    project: Path, fake: FakeProvider
) -> None:
    keys = {"ONE_KEY": SECRET, "TWO_KEY": SECRET, "FAKE_BASE": f"{fake.url}/v1"}
    done = await mesh(project, "test", **keys)
    assert (done.status, "mesh:" in done.err) == (0, False)
    for model in ("gpt-5.4-mini", "house-model"):
        kinds = [(call.body.get("stream", False), "tools" in call.body) for call in fake.calls_of(model)]
        assert kinds[:4] == [(False, False), (True, False), (True, True), (False, True)]
        limits = [
            call.body.get("max_tokens") or call.body["max_completion_tokens"] for call in fake.calls_of(model)
        ]
        assert sum(limits) <= 900
    told = row(done, "house-model").split()
    assert (told[1], told[4:7], told[7]) == ("ok", ["66", "+", "42"], "$0.00015")
    listed = json.loads((await mesh(project, "--json", **keys)).out)
    health = {
        each["deployment"]: each["health"]["status"]
        for group in listed["groups"]
        for each in group["deployments"]
    }
    assert health == {
        "default/openai/gpt-5.4-mini": "ok",
        "default/openai/house-model": "ok",
        "backup/ollama_chat/llama3.1": "unknown",
    }


async def test_one_that_fails_is_told_by_our_name_for_it_and_fails_the_command(
    project: Path, fake: FakeProvider
) -> None:
    fake.faults.append(Fault(status=401))
    keys = {"TWO_KEY": SECRET, "FAKE_BASE": f"{fake.url}/v1"}
    done = await mesh(project, "test", "--model", "default", "--json", **keys)
    assert done.status == 1
    [found] = json.loads(done.out)
    assert (found["deployment"], found["ok"]) == ("default/openai/house-model", False)
    assert found["error"]["type"] == "Unauthorized"
    assert len(fake.calls) == 1
    assert "Unauthorized" in row(await mesh(project, **keys), "house-model")


@pytest.mark.parametrize(("faulty", "kind"), [(1, "streamed: "), (2, "with a tool: ")])
async def test_one_that_fails_with_streams_or_tools_fails_the_command(
    project: Path, fake: FakeProvider, faulty: int, kind: str
) -> None:
    fake.faults.extend([Fault(kind="slow")] * faulty + [Fault(status=500)])
    done = await mesh(project, "test", TWO_KEY=SECRET, FAKE_BASE=f"{fake.url}/v1")
    told = row(done, "house-model")
    assert done.status == 1 and " failed " in told and kind in told


async def test_one_that_takes_no_tools_is_well_and_says_so(project: Path, fake: FakeProvider) -> None:
    refusal = {"error": {"message": "house-model does not support tools", "type": "invalid_request_error"}}
    fake.faults.extend([Fault(kind="slow")] * 2 + [Fault(status=400, body=refusal)])
    done = await mesh(project, "test", TWO_KEY=SECRET, FAKE_BASE=f"{fake.url}/v1")
    told = row(done, "house-model")
    assert done.status == 0 and " ok " in told and "(takes no tools)" in told


@pytest.mark.parametrize("arguments", [(), ("test",)])
async def test_another_release_of_litellm_is_refused_with_the_command_to_run(
    project: Path, fake: FakeProvider, arguments: tuple[str, ...]
) -> None:
    text = CONFIG.replace("openai/house-model", "mistral/house-model")  # which LiteLLM has to call
    (project / "litellm_config.yaml").write_text(text)
    release(project / "site", "1.106.1")
    keys = {"TWO_KEY": SECRET, "FAKE_BASE": f"{fake.url}/v1", "PYTHONPATH": str(project / "site")}
    done = await mesh(project, *arguments, **keys)
    told = "LiteLLM 1.106.1 is installed, and Meshwright works with 1.88.6 only"
    assert told in done.out + done.err and ": pip install litellm==1.88.6" in done.out + done.err
    assert done.status == len(arguments) and fake.calls == []


def release(folder: Path, number: str) -> None:
    info = folder / f"litellm-{number}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: litellm\nVersion: {number}\n")


async def test_a_group_that_nobody_can_call_names_the_keys(project: Path) -> None:
    done = await mesh(project, "test", "--model", "backup", ONE_KEY=SECRET, FAKE_BASE="http://127.0.0.1:1")
    assert (done.status, done.err) == (1, "mesh: no deployment can be called; set one of NOWHERE\n")


async def test_offline_the_built_in_model_is_tried(project: Path) -> None:
    done = await mesh(project, "test")
    assert done.status == 0
    assert "$0" in row(done, "default") and "offline" in row(done, "default")
    assert "unknown" in row(await mesh(project), "gpt-5.4-mini")


async def test_a_server_that_is_no_proxy_lists_its_names(project: Path, fake: FakeProvider) -> None:
    done = await mesh(project, LITELLM_BASE_URL=fake.url)
    assert done.status == 0
    assert done.out.startswith(f"answers: http {fake.url}")
    assert row(done, "fake-openai ").split()[:4] == ["fake-openai", "fake-openai", "?", "?"]
    tried = await mesh(project, "test", LITELLM_BASE_URL=fake.url)
    assert (tried.status, [call.body["model"] for call in fake.calls]) == (0, ["fake-openai"] * 6)
    assert " ok " in row(await mesh(project, LITELLM_BASE_URL=fake.url), "fake-openai ") + " "


async def test_a_running_mesh_says_itself_what_answers_in_it(project: Path, fake: FakeProvider) -> None:
    (project / "litellm_config.yaml").unlink()
    async with mesh_up(project / ".mesh", "--model", "house-model", LITELLM_BASE_URL=fake.url):
        done = await mesh(project)
        assert done.status == 0, done.err
        assert done.out.startswith(f"answers: http {fake.url} (every call is of house-model)\n\n")
        assert row(done, "unknown").split()[0] == "fake-openai"
        tested = await mesh(project, "test")
        assert (tested.status, row(tested, "house-model").split()[:2]) == (0, ["house-model", "ok"])
        assert [call.body["model"] for call in fake.calls] == ["house-model"] * 6


async def test_a_name_that_a_server_does_not_list_gets_calls_again_once_it_answers(
    project: Path, fake: FakeProvider
) -> None:
    fake.faults.append(Fault(status=401))
    question = {"model": "default", "messages": [{"role": "user", "content": "Hello"}]}
    async with mesh_up(project / ".mesh", cwd=project, LITELLM_BASE_URL=fake.url) as running:
        assert (await running.post("/v1/chat/completions", question)).status >= 400
        [left_alone] = (await running.get("/status")).body["deployments"]
        assert left_alone["deployment"].startswith("default")
        tested = await mesh(project, "test")
        assert tested.status == 0 and row(tested, "fake-openai")
        assert (await running.get("/status")).body["deployments"] == []


async def fake_proxy(told: dict[str, Any]) -> tuple[web.AppRunner, str]:
    """Not LiteLLM: a server that answers the two listings as its proxy documents them."""

    async def models(request: web.Request) -> web.Response:
        if request.headers.get("authorization") != f"Bearer {SECRET}":
            return web.json_response({"error": "no"}, status=401)
        return web.json_response({"data": [{"id": "quality"}, {"id": "fast"}]})

    async def info(request: web.Request) -> web.Response:
        return web.json_response(told, status=200 if told else 403)

    application = web.Application()
    application.add_routes([web.get("/v1/models", models), web.get("/model/info", info)])
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    return runner, f"http://127.0.0.1:{runner.addresses[0][1]}"


async def test_a_proxy_says_what_its_groups_are_made_of_where_it_may(project: Path) -> None:
    params = {"model": "anthropic/claude-opus-4-8", "tags": ["default"], "api_key": "sk-proxys-own"}
    info = {"id": "abc", "input_cost_per_token": 5e-06, "output_cost_per_token": 2.5e-05}
    runner, url = await fake_proxy(
        {"data": [{"model_name": "quality", "litellm_params": params, "model_info": info}]}
    )
    try:
        done = await mesh(project, LITELLM_BASE_URL=url, LITELLM_API_KEY=SECRET)
        assert row(done, "opus").split() == [
            *("quality", "anthropic/claude-opus-4-8", "abc", "default", "5", "25", "unknown")
        ]
        assert row(done, "fast").split()[:2] == ["fast", "fast"]
        assert "sk-proxys-own" not in done.out
        refused = await mesh(project, LITELLM_BASE_URL=url, LITELLM_API_KEY="another")
        assert refused.err == f"mesh: {url} refused the credentials; check LITELLM_API_KEY\n"
    finally:
        await runner.cleanup()


async def test_a_proxy_that_keeps_it_to_itself_still_lists_its_groups(project: Path) -> None:
    runner, url = await fake_proxy({})
    try:
        done = await mesh(project, LITELLM_BASE_URL=url, LITELLM_API_KEY=SECRET)
        assert [line.split()[0] for line in done.out.splitlines()[3:]] == ["fast", "quality"]
    finally:
        await runner.cleanup()


async def test_a_server_that_does_not_answer_is_one_line(project: Path) -> None:
    done = await mesh(project, LITELLM_BASE_URL="http://127.0.0.1:1")
    assert (done.status, done.err.count("\n")) == (1, 1)
    assert "Cannot ask http://127.0.0.1:1 for its models" in done.err
