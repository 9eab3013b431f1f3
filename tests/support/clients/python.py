"""Checks of Python libraries against OpenAI's API, each by its name.

Run by the Python of an environment that has the libraries: `python.py BASE_URL LIBRARY`. Prints one line of
JSON for each check: its name, and what went wrong, or null.
"""

from __future__ import annotations

import asyncio
import json
import sys
import traceback
from collections.abc import Callable
from functools import partial
from typing import Any

from pydantic import BaseModel

URL = sys.argv[1]
KEY = "none"
MODEL = "fast"
PICTURE = "data:image/png;base64,iVBORw0KGgo="
CHECKS: dict[str, list[Callable[[], Any]]] = {}


class City(BaseModel):
    """A city."""

    name: str
    inhabitants: int


def check(function: Callable[[], Any]) -> Callable[[], Any]:
    CHECKS.setdefault(function.__name__.partition("_")[0], []).append(function)
    return function


# openai


def openai_client() -> Any:
    import openai

    return openai.OpenAI(base_url=URL, api_key=KEY, max_retries=0)


WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a city.",
        "strict": True,
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
HELLO = [{"role": "user", "content": "Hello?"}]


@check
def openai_plain() -> None:
    reply = openai_client().chat.completions.create(model=MODEL, messages=HELLO, top_p=0.5, stop=["END"])
    assert reply.choices[0].message.content, reply


@check
def openai_stream() -> None:
    chunks = [*openai_client().chat.completions.create(model=MODEL, messages=HELLO, stream=True)]
    assert len(chunks) > 3, chunks


@check
def openai_tools() -> None:
    create = partial(openai_client().chat.completions.create, model=MODEL, tools=[WEATHER])
    asked: Any = [{"role": "user", "content": "Weather in Bern?"}]
    message = create(messages=asked, tool_choice="required", parallel_tool_calls=False).choices[0].message
    [call] = message.tool_calls
    result = {"role": "tool", "tool_call_id": call.id, "content": "sunny"}
    assert "sunny" in create(messages=[*asked, message, result]).choices[0].message.content


@check
def openai_streamed_tools() -> None:
    with openai_client().chat.completions.stream(
        model=MODEL, messages=HELLO, tools=[WEATHER], tool_choice="required"
    ) as stream:
        events = [event.type for event in stream]
        reply = stream.get_final_completion()
    assert "tool_calls.function.arguments.done" in events, events
    assert reply.choices[0].message.tool_calls[0].function.name == "weather"


@check
def openai_parse() -> None:
    reply = openai_client().chat.completions.parse(model=MODEL, messages=HELLO, response_format=City)
    assert isinstance(reply.choices[0].message.parsed, City), reply


@check
def openai_picture() -> None:
    content = [{"type": "text", "text": "What?"}, {"type": "image_url", "image_url": {"url": PICTURE}}]
    reply = openai_client().chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": content}]
    )
    assert "1 picture" in reply.choices[0].message.content, reply


@check
def openai_responses() -> None:
    client = openai_client()
    assert client.responses.create(model=MODEL, input="Hello?", reasoning={"effort": "low"}).output_text
    assert client.responses.parse(model=MODEL, input="Hello?", text_format=City).output_parsed
    with client.responses.stream(model=MODEL, input="Hello?") as stream:
        assert len([event for event in stream if event.type == "response.output_text.delta"]) > 1
    tool: Any = {"type": "function", **WEATHER["function"]}
    asked = client.responses.create(model=MODEL, input="Weather?", tools=[tool], tool_choice="required")
    assert asked.output[0].type == "function_call"
    result: Any = {"type": "function_call_output", "call_id": asked.output[0].call_id, "output": "sunny"}
    items: Any = [{"role": "user", "content": "Weather?"}, *asked.output, result]
    assert "sunny" in client.responses.create(model=MODEL, input=items, tools=[tool]).output_text


@check
def openai_models_and_embeddings() -> None:
    client = openai_client()
    assert client.models.retrieve(MODEL).id == MODEL
    vectors = client.embeddings.create(model=MODEL, input=["a turn", "a topic"]).data
    assert len(vectors) == 2
    assert abs(sum(value * value for value in vectors[0].embedding) - 1) < 1e-5


# langchain


def langchain_client(**options: Any) -> Any:
    from langchain_openai import ChatOpenAI

    return ChatOpenAI(base_url=URL, api_key=KEY, model=MODEL, max_retries=0, **options)


@check
def langchain_invoke_stream_batch() -> None:
    model = langchain_client()
    assert model.invoke("Hello?").content
    assert len([*model.stream("Hello?")]) > 1
    assert len(model.batch(["Hello?"] * 50)) == 50


@check
def langchain_tools() -> None:
    model = langchain_client().bind_tools([WEATHER], parallel_tool_calls=False, tool_choice="weather")
    assert model.invoke("Weather in Bern?").tool_calls[0]["name"] == "weather"


@check
def langchain_structured() -> None:
    for method in ("json_schema", "function_calling", "json_mode"):
        made = langchain_client().with_structured_output(City, method=method).invoke("A city as JSON.")
        assert isinstance(made, City), (method, made)


@check
def langchain_stop_and_responses() -> None:
    assert langchain_client(temperature=0.3).bind(stop=["END"]).invoke("Hello?").content
    assert langchain_client(use_responses_api=True).invoke("Hello?").text


@check
def langchain_embeddings() -> None:
    from langchain_openai import OpenAIEmbeddings

    made = OpenAIEmbeddings(base_url=URL, api_key=KEY, model=MODEL, check_embedding_ctx_length=False)
    assert len(made.embed_documents(["a", "b"])) == 2


# instructor


@check
def instructor_modes() -> None:
    import instructor

    for mode in ("TOOLS", "TOOLS_STRICT", "JSON", "JSON_SCHEMA", "MD_JSON", "PARALLEL_TOOLS"):
        if not hasattr(instructor.Mode, mode) or mode == "PARALLEL_TOOLS":
            continue
        client = instructor.from_openai(openai_client(), mode=getattr(instructor.Mode, mode))
        made = client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": "A city."}], response_model=City, max_retries=0
        )
        assert isinstance(made, City), mode


# pydantic-ai


def pydantic_agent(**options: Any) -> Any:
    from pydantic_ai import Agent
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.providers.openai import OpenAIProvider

    return Agent(OpenAIChatModel(MODEL, provider=OpenAIProvider(base_url=URL, api_key=KEY)), **options)


@check
def pydantic_text_and_stream() -> None:
    agent = pydantic_agent(model_settings={"top_p": 0.5})

    async def ask() -> None:
        assert (await agent.run("Hello?")).output
        async with agent.run_stream("Hello?") as streamed:
            assert [piece async for piece in streamed.stream_text(delta=True)]

    asyncio.run(ask())


@check
def pydantic_tools() -> None:
    agent = pydantic_agent()

    @agent.tool_plain
    def weather(city: str) -> str:
        return f"sunny in {city}"

    assert "sunny" in agent.run_sync("Weather in Bern?").output


@check
def pydantic_structured() -> None:
    from pydantic_ai import NativeOutput, PromptedOutput, ToolOutput

    for output in (City, NativeOutput(City), PromptedOutput(City), ToolOutput(City)):
        assert isinstance(pydantic_agent(output_type=output).run_sync("A city.").output, City), output


@check
def pydantic_picture() -> None:
    from pydantic_ai import BinaryContent

    picture = BinaryContent(data=b"\x89PNG", media_type="image/png")
    assert "1 picture" in pydantic_agent().run_sync(["What?", picture]).output


# litellm


@check
def litellm_providers() -> None:
    import litellm

    for provider in ("openai", "litellm_proxy", "hosted_vllm"):
        call = partial(litellm.completion, f"{provider}/{MODEL}", HELLO, api_base=URL, api_key=KEY)
        assert call(top_p=0.5).choices[0].message.content, provider
        assert len([*call(stream=True)]) > 1, provider
        asked = call(tools=[WEATHER], tool_choice="required", parallel_tool_calls=False)
        assert asked.choices[0].message.tool_calls[0].function.name == "weather", provider
    made = litellm.embedding(f"openai/{MODEL}", ["a", "b"], api_base=URL, api_key=KEY)
    assert len(made.data) == 2


@check
def litellm_context_error() -> None:
    import litellm

    try:
        litellm.completion(
            f"openai/{MODEL}", [{"role": "user", "content": "Too long!"}], api_base=URL, api_key=KEY
        )
    except litellm.ContextWindowExceededError:
        return
    raise AssertionError("no ContextWindowExceededError")


if __name__ == "__main__":
    for checked in CHECKS[sys.argv[2]]:
        try:
            checked()
            problem = None
        except Exception:  # noqa: BLE001 - whatever a library raises is told
            problem = traceback.format_exc()
        print(json.dumps([checked.__name__, problem]), flush=True)
