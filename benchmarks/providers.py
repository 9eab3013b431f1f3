"""Providers side by side: how long a call takes, whether its cost is told right, how long a failover takes.

    python -m benchmarks.providers                      # fakes that say so: what the mesh itself adds
    python -m benchmarks.providers --live               # those whose keys are set; it costs a few cents
    python -m benchmarks.providers --live gpt-5.4 ...   # these

Costs are compared with the same tokens times the prices of LiteLLM's list, reckoned here.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import os
import socket
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path

from benchmarks.bench import Bench
from benchmarks.figures import Figure, Row, percentile
from benchmarks.table import as_markdown, as_text
from meshwright.core.errors import ConfigError, ModelError
from meshwright.models.named_models import Chain, ModelSettings, named_models, with_fallbacks
from meshwright.models.picker import Picker
from meshwright.models.port import ChatMessage, ModelReply, ModelRequest
from meshwright.models.providers import PROVIDERS, find_provider, missing
from tests.support.fake_provider import FakeProvider, Fault

FAKED = (
    "openai/gpt-5.4",
    "anthropic/claude-sonnet-4-6",
    "mistral/mistral-large-latest",
    "deepseek/deepseek-chat",
    "xai/grok-4",
)
CALLS, LIVE_CALLS, FAILOVERS = 50, 5, 3
RECORDED = {
    "prompt_tokens": 1_200,
    "completion_tokens": 340,
    "total_tokens": 1_540,
    "prompt_tokens_details": {"cached_tokens": 800},
}
"""Tokens as a reply of a provider tells them, for the fakes to tell."""
DEAD = "custom_openai/nobody"
SILENT_SECONDS = 1.0


async def measure(bench: Bench) -> list[Row]:
    """Of fakes alone: no run of all benchmarks may find a paid model."""
    if importlib.util.find_spec("litellm") is None:
        return [Row("providers", "not run: litellm is not installed")]
    rows: list[Row] = []
    for model in FAKED:
        async with FakeProvider(usage=RECORDED) as fake:
            environment = environment_at(fake, model)
            rows += await latency_and_cost(f"{model}, a fake", model, environment, bench.count(CALLS))
            rows.append(await failover(f"{model}, a fake", model, environment, fake, bench.count(FAILOVERS)))
    return rows


async def live(models: Sequence[str]) -> list[Row]:
    """Of providers themselves; one that fails has its error for a row."""
    rows: list[Row] = []
    for model in models or configured():
        try:
            rows += await latency_and_cost(model, model, os.environ, LIVE_CALLS)
            rows.append(await failover(model, model, os.environ, None))
        except (ConfigError, ModelError) as error:
            rows.append(Row(model, f"{error.code}: {error}"))
    return rows or [Row("providers", "not run: no key of a provider is set; see docs/providers.md")]


def configured() -> list[str]:
    """An example model of each provider whose variables are set."""
    return [each.example for each in PROVIDERS if missing(each, each.example, os.environ) is None]


def environment_at(fake: FakeProvider, model: str) -> dict[str, str]:
    """The environment in which a model's provider is the fake."""
    provider, _ = find_provider(model)
    path = "" if provider.name == "anthropic" else "/v1"
    values = {"api_key": "none-needed", "api_base": f"{fake.url}{path}"}
    return {param.variables[0]: values[param.name] for param in provider.params}


async def latency_and_cost(what: str, model: str, environment: Mapping[str, str], calls: int) -> list[Row]:
    """One call after the other, the first one (which opens connections) aside."""
    seconds: list[float] = []
    replies: list[ModelReply] = []
    async with opened(Chain(ModelSettings.from_env(model, environment)), environment) as direct:
        await direct.complete(request(model))
        for _ in range(calls):
            started = time.perf_counter()
            replies.append(await direct.complete(request(model)))
            seconds.append(time.perf_counter() - started)
    figures = [1000 * percentile(seconds, share) for share in (0.5, 0.95)]
    note = f"{calls} calls, one at a time; p95 {figures[1]:,.1f} ms"
    return [Row(f"{what}: a call, p50", Figure([figures[0]], "ms", 1), note=note), cost(what, model, replies)]


def cost(what: str, model: str, replies: Sequence[ModelReply]) -> Row:
    """What the calls cost as the replies tell it, beside the same tokens reckoned by hand."""
    told = [reply.cost_usd for reply in replies]
    right = [by_hand(model, reply) for reply in replies]
    usage = replies[-1].usage
    tokens_in = f"{usage.prompt_tokens} tokens in ({usage.cached_tokens} cached)"
    note = f"{tokens_in}, {usage.completion_tokens} out a call"
    met = None if None in right else told == right
    return Row(f"{what}: cost", total(told), total(right), target="exact", met=met, note=note)


def total(amounts: Sequence[Decimal | None]) -> str:
    """The sum, where each is known."""
    known = [amount for amount in amounts if amount is not None]
    return f"${sum(known, Decimal(0)).normalize():f}" if len(known) == len(amounts) else "unknown"


def by_hand(model: str, reply: ModelReply) -> Decimal | None:
    """Tokens times prices of LiteLLM's list, cached ones at the full price where it has none for them."""
    from litellm import model_cost

    whole = find_provider(model)[1]
    entry = model_cost.get(whole) or model_cost.get(whole.partition("/")[2])
    if not entry:
        return None
    usage, full = reply.usage, entry["input_cost_per_token"]
    amounts = (
        (full, usage.prompt_tokens - usage.cached_tokens),
        (entry.get("cache_read_input_token_cost") or full, usage.cached_tokens),
        (entry["output_cost_per_token"], usage.completion_tokens),
    )
    return sum((Decimal(str(price)) * tokens for price, tokens in amounts), Decimal(0))


async def failover(
    what: str, model: str, environment: Mapping[str, str], fake: FakeProvider | None, chains: int = FAILOVERS
) -> Row:
    """How long a call takes whose first model cannot answer: the first call of a new chain each time."""
    figures = {"refused": await failed_over(chains, model, {**environment, **dead()}, None)}
    if fake is not None:
        at_fake = {**environment, "CUSTOM_OPENAI_API_BASE": f"{fake.at('nobody')}/v1"}
        silent = {**at_fake, "CUSTOM_OPENAI_TIMEOUT_SECONDS": str(SILENT_SECONDS)}
        figures["500"] = await failed_over(chains, model, at_fake, fake, Fault(status=500))
        figures[f"silent, limit {SILENT_SECONDS:g} s"] = await failed_over(
            chains, model, silent, fake, Fault(kind="hang")
        )
    said = "; ".join(f"{kind} {figure}" for kind, figure in figures.items())
    return Row(f"{what}: a call with failover", said, note=f"the first call of {chains} new chains each")


async def failed_over(
    chains: int,
    model: str,
    environment: Mapping[str, str],
    fake: FakeProvider | None,
    fault: Fault | None = None,
) -> Figure:
    """Milliseconds until the fallback has answered."""
    seen: list[float] = []
    for _ in range(chains):
        if fake is not None and fault is not None:
            fake.faults_of["nobody"].append(fault)
        async with opened(with_fallbacks(DEAD, [model], environment=environment), environment) as direct:
            started = time.perf_counter()
            await direct.complete(request(DEAD))
            seen.append(1000 * (time.perf_counter() - started))
    return Figure(seen, "ms")


@asynccontextmanager
async def opened(chain: Chain, environment: Mapping[str, str]) -> AsyncIterator[Picker]:
    """The model."""
    direct = named_models([chain], environment=environment)
    try:
        yield direct
    finally:
        await direct.close()


def dead() -> dict[str, str]:
    """The address of a server that is not there."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return {"CUSTOM_OPENAI_API_BASE": f"http://127.0.0.1:{free.getsockname()[1]}/v1"}


def request(model: str) -> ModelRequest:
    """A short question."""
    question = ChatMessage(role="user", content="Say the word ready, and nothing else.")
    return ModelRequest(model=model, messages=(question,), user="bench", max_tokens=64, timeout_seconds=60)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.providers", description=__doc__.splitlines()[0]
    )
    parser.add_argument("models", nargs="*", help="with --live: these, and not all whose keys are set")
    parser.add_argument("--live", action="store_true", help="call the providers themselves: it costs money")
    parser.add_argument("--markdown", action="store_true", help="print a Markdown table")
    options = parser.parse_args()
    rows = asyncio.run(live(options.models) if options.live else measure(Bench(Path(tempfile.gettempdir()))))
    print(as_markdown(rows) if options.markdown else as_text(rows))
    sys.exit(0)


if __name__ == "__main__":
    main()
