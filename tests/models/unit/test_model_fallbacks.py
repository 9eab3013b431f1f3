"""Fallbacks: who answers when a deployment cannot, and who is not asked."""

from decimal import Decimal

import pytest

from meshwright.core.clock import SystemClock
from meshwright.core.errors import ModelError
from meshwright.models.circuits import Retrying
from meshwright.models.errors import AllProvidersDown, ContentRefused, ModelRefused, ModelUnavailable
from meshwright.models.port import STREAM_RESTART
from tests.support.fake_provider import FakeProvider, Fault
from tests.support.pickers import TIERS, Make, asked, deployment, request, three

# LiteLLM reads its streams by an attribute that pydantic deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:Accessing the 'model_:DeprecationWarning")


async def test_a_group_that_fails_is_answered_by_its_fallback(make: Make, fake: FakeProvider) -> None:
    deployments = [deployment(fake, "quality", TIERS["expensive"]), deployment(fake, "fast", TIERS["cheap"])]
    model = make(deployments, router_settings={"fallbacks": [{"quality": ["fast"]}]})
    fake.faults.append(Fault(status=500))
    assert (await model.complete(request(model="quality"))).model == "gpt-5.4-nano"
    assert len(fake.calls) == 2


async def test_a_group_that_lost_all_its_deployments_is_answered_by_its_fallback(
    make: Make, fake: FakeProvider
) -> None:
    lost = deployment(fake, "quality", TIERS["expensive"], api_key="os.environ/NOT_SET")
    deployments = [lost, deployment(fake, "fast", TIERS["cheap"])]
    model = make(deployments, router_settings={"fallbacks": [{"quality": ["fast"]}]})
    assert (await model.complete(request(model="quality"))).model == "gpt-5.4-nano"


async def test_retries_that_the_file_asks_for_are_not_made(make: Make, fake: FakeProvider) -> None:
    params = {"max_retries": 3, "num_retries": 3}
    policy = {"InternalServerErrorRetries": 3}
    router_settings = {
        "num_retries": 3,
        "retry_policy": policy,
        "model_group_retry_policy": {"default": policy},
    }
    settings = {"router_settings": router_settings, "litellm_settings": {"num_retries": 3}}
    model = make([deployment(fake, "default", TIERS["medium"], **params)], **settings)
    fake.faults.extend(Fault(status=500) for _ in range(9))
    with pytest.raises(ModelUnavailable):
        await model.complete(request())
    assert len(fake.calls) == 1


CHAIN = {"fallbacks": [{"quality": ["fast"]}, {"fast": ["last"]}]}


@pytest.mark.parametrize("status", [400, 422])
async def test_what_another_deployment_cannot_mend_is_not_paid_twice(
    make: Make, fake: FakeProvider, status: int
) -> None:
    settings = {**CHAIN, "default_fallbacks": ["last"], "disable_cooldowns": True}
    model = make(three(fake), router_settings=settings)
    for on_delta in (None, [].append):
        fake.faults.append(Fault(status=status))
        with pytest.raises(ModelError) as failed:
            await model.complete(request(model="quality"), on_delta)
        assert not failed.value.retryable
    assert asked(fake) == ["gpt-5.4-mini"] * 2


@pytest.mark.parametrize(
    "fault",
    [
        *(Fault(status=status) for status in (401, 402, 403, 404, 408, 429)),
        Fault(status=429, body={"error": {"code": "insufficient_quota", "message": "no credit"}}),
        Fault(status=400, body={"error": {"message": "Your credit balance is too low"}}),
        Fault(kind="drop"),
    ],
    ids=str,
)
async def test_a_chain_of_fallbacks_is_followed_to_its_end(
    make: Make, fake: FakeProvider, fault: Fault
) -> None:
    model = make(three(fake), router_settings=CHAIN)
    fake.faults.extend([fault, fault])
    reply = await model.complete(request(model="quality"))
    assert (reply.model, reply.attempts) == ("gpt-5.4-nano", 3)
    assert asked(fake) == ["gpt-5.4-mini", "gpt-5.4", "gpt-5.4-nano"]


async def test_a_call_that_nobody_answers_names_the_deployments_that_are_away(
    make: Make, fake: FakeProvider
) -> None:
    model = make([*three(fake), deployment(fake, "other", TIERS["cheap"])], router_settings=CHAIN)
    fake.faults.extend([Fault(status=401)] * 3)
    names = {
        f"{group}/{name}" for group, name in zip(("quality", "fast", "last"), TIERS.values(), strict=True)
    }
    for made_calls in (3, 0):
        with pytest.raises(ModelError) as failed:
            await model.complete(request(model="quality"))
        assert (len(failed.value.failed_at), {*failed.value.away}) == (made_calls, names)


async def test_a_stream_that_dies_is_restarted_by_the_fallback(make: Make, fake: FakeProvider) -> None:
    model = make(three(fake), router_settings=CHAIN)
    fake.faults.append(Fault(kind="drop"))
    told: list[str] = []
    reply = await model.complete(request(model="quality"), told.append)
    restart = told.index(STREAM_RESTART)
    assert restart > 0 and "".join(told[restart + 1 :]) == reply.content
    assert len(fake.calls[1].body["messages"]) == 1


async def test_when_nobody_answers_it_is_said_what_each_of_them_had(make: Make, fake: FakeProvider) -> None:
    model = make(three(fake), router_settings=CHAIN)
    fake.faults.extend(Fault(status=429, headers={"retry-after": str(wait)}) for wait in (9, 5, 7))
    with pytest.raises(AllProvidersDown, match=r"'gpt-5.4-mini'.*'gpt-5.4'.*'gpt-5.4-nano'") as down:
        await model.complete(request(model="quality"))
    assert down.value.retryable and down.value.retry_after_seconds == 5.0


async def test_the_default_fallback_is_for_groups_without_one_of_their_own(
    make: Make, fake: FakeProvider
) -> None:
    model = make(three(fake), router_settings={**CHAIN, "default_fallbacks": ["quality"]})
    fake.faults.append(Fault(status=500))
    assert (await model.complete(request(model="last"))).model == "gpt-5.4-mini"


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        (
            "context_window_fallbacks",
            {"code": "context_length_exceeded", "message": "maximum context length"},
        ),
        ("content_policy_fallbacks", {"code": "content_policy_violation", "message": "safety system"}),
    ],
)
async def test_a_refusal_has_fallbacks_of_its_own_kind_alone(
    make: Make, fake: FakeProvider, kind: str, error: dict[str, str]
) -> None:
    model = make(
        three(fake), router_settings={"fallbacks": [{"quality": ["fast"]}], kind: [{"quality": ["last"]}]}
    )
    for group, order in (("quality", ["gpt-5.4-mini", "gpt-5.4-nano"]), ("fast", ["gpt-5.4"])):
        fake.calls.clear()
        fake.faults.append(Fault(status=400, body={"error": error}))
        try:
            assert (await model.complete(request(model=group))).attempts == 2
        except ModelRefused:
            assert group == "fast"
        assert asked(fake) == order


async def test_an_answer_that_is_held_back_is_given_by_the_policys_fallback(
    make: Make, fake: FakeProvider
) -> None:
    model = make(three(fake), router_settings={"content_policy_fallbacks": [{"quality": ["last"]}]})
    fake.replies.append({"content": "", "finish_reason": "content_filter"})
    reply = await model.complete(request(model="quality"))
    assert (reply.model, reply.attempts) == ("gpt-5.4-nano", 2)
    [held_back] = reply.lost
    assert (held_back.model, held_back.usage.prompt_tokens) == ("gpt-5.4-mini", fake.usage["prompt_tokens"])


async def test_answers_that_are_held_back_before_a_fallback_that_is_away_are_known_to_the_error(
    make: Make, fake: FakeProvider
) -> None:
    model = Retrying(
        make(three(fake), router_settings={"content_policy_fallbacks": [{"quality": ["last"]}]}),
        SystemClock(),
        max_tries=2,
        backoff_seconds=0,
    )
    fake.faults_of["gpt-5.4-nano"].extend([Fault(status=503)] * 2)
    fake.replies.extend([{"content": "", "finish_reason": "content_filter"}] * 2)
    with pytest.raises(AllProvidersDown) as failed:
        await model.complete(request(model="quality"))
    assert [each.model for each in failed.value.lost] == ["gpt-5.4-mini"] * 2


async def test_an_answer_that_is_held_back_says_what_it_cost(make: Make, fake: FakeProvider) -> None:
    model = make(three(fake, input_cost_per_token=0.01, output_cost_per_token=0.02))
    fake.replies.append({"content": "", "finish_reason": "content_filter"})
    with pytest.raises(ContentRefused) as refused:
        await model.complete(request(model="quality"))
    [reply] = refused.value.lost
    assert reply.usage.prompt_tokens == fake.usage["prompt_tokens"]
    known = reply.cost_source, reply.cost_usd
    used = reply.usage
    cost = Decimal("0.01") * used.prompt_tokens + Decimal("0.02") * used.completion_tokens
    assert known == ("priced", cost)


async def test_the_next_order_is_asked_before_the_fallbacks_and_not_after_a_bad_request(
    make: Make, fake: FakeProvider
) -> None:
    first, second, last = three(fake)
    for number, each in enumerate((first, second), start=1):
        each["model_name"] = "quality"
        each["litellm_params"]["order"] = number
    model = make([first, second, last], router_settings={"fallbacks": [{"quality": ["last"]}]})
    fake.faults.append(Fault(status=400))
    with pytest.raises(ModelRefused):
        await model.complete(request(model="quality"))
    fake.faults.extend([Fault(status=500), Fault(status=500)])
    assert (await model.complete(request(model="quality"))).attempts == 3
    assert asked(fake) == ["gpt-5.4-mini", "gpt-5.4-mini", "gpt-5.4", "gpt-5.4-nano"]
