"""Routes of calls: the rules of a file as words and numbers, and what is refused."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from meshwright.models.config import LiteLLMConfig, read_config
from meshwright.models.errors import ModelRefused
from meshwright.models.port import ModelRequest
from meshwright.models.routing import check, group_fallbacks, route, tags_nobody_answers

ROOT = Path(__file__).resolve().parents[3]
KEYS = {"ANTHROPIC_API_KEY": "a", "OPENAI_API_KEY": "o"}


def deployment(group: str, model: str, tags: Sequence[str] = ("default",), **params: Any) -> dict[str, Any]:
    settings = {"model": model, "tags": list(tags), **params}
    return {"model_name": group, "litellm_params": settings, "model_info": {"id": f"{group}/{model}"}}


def config_of(*deployments: dict[str, Any], **settings: Any) -> LiteLLMConfig:
    router = {"enable_tag_filtering": True, "tag_filtering_match_any": False, **settings}
    return LiteLLMConfig(Path("litellm_config.yaml"), deployments, router, {}, {})


def asked(found: Any) -> list[str]:
    return [each.model for each in found.asked]


FLEET = config_of(
    deployment("default", "plain", ["default", "medium"]),
    deployment("default", "strong", ["expensive", "research"]),
    deployment("default", "small", ["cheap", "research"]),
)


@pytest.mark.parametrize(
    ("tags", "models", "why"),
    [
        ([], ["plain"], "those tagged default, since the call has no tags"),
        (["research", "cheap"], ["small"], "those tagged research and cheap"),
        (["research"], ["strong", "small"], "those tagged research"),
        (["cheap", "expensive"], ["plain"], "those tagged default, since none is tagged cheap and expensive"),
    ],
)
def test_tags_pick_those_that_have_all_of_them_else_the_default(
    tags: list[str], models: list[str], why: str
) -> None:
    found = route(FLEET, {}, "default", tags)
    assert (asked(found), found.why, found.problem) == (models, why, None)


def test_one_common_tag_is_enough_where_the_file_says_so_and_where_it_says_nothing() -> None:
    for settings in ({"tag_filtering_match_any": True}, {}):
        config = LiteLLMConfig(
            Path("x"), FLEET.deployments, {"enable_tag_filtering": True, **settings}, {}, {}
        )
        found = route(config, {}, "default", ["cheap", "expensive"])
        assert (asked(found), found.why) == (["strong", "small"], "those tagged cheap or expensive")


def test_a_file_that_does_not_filter_asks_all_of_a_group_and_knows_no_wrong_tag() -> None:
    config = config_of(*FLEET.deployments, enable_tag_filtering=False)
    assert asked(route(config, {}, "default", ["nonsense"])) == ["plain", "strong", "small"]
    check(config, request(tags=("nonsense",)))


def test_without_a_default_a_call_without_tags_may_go_to_any_and_one_that_fits_none_to_nobody() -> None:
    config = config_of(deployment("default", "a", ["cheap"]), deployment("default", "b", ["coding"]))
    assert asked(route(config, {}, "default", [])) == ["a", "b"]
    found = route(config, {}, "default", ["cheap", "coding"])
    assert (found.asked, found.problem) == (
        (),
        "no deployment of 'default' is tagged cheap and coding, and none default",
    )


@pytest.mark.parametrize(
    ("params", "shares"),
    [
        ([{"weight": 3}, {"weight": 1}, {"weight": 0}], [0.75, 0.25, 0.0]),
        ([{}, {}], [0.5, 0.5]),
        ([{"weight": 0}, {"weight": 0}], [0.5, 0.5]),
        ([{"weight": 1}, {}], [1.0, 0.0]),
        ([{"rpm": 90}, {"rpm": 10}], [0.9, 0.1]),
        ([{"weight": 0, "tpm": 1}, {"weight": 0, "tpm": 3}], [0.75, 0.25]),
        ([{}, {"weight": 5}], [0.5, 0.5]),
    ],
)
def test_chance_decides_by_weight_then_by_rates_as_litellm_draws(
    params: list[dict[str, Any]], shares: list[float]
) -> None:
    config = config_of(*(deployment("default", f"m{n}", **each) for n, each in enumerate(params)))
    assert [each.share for each in route(config, {}, "default", []).asked] == shares


def test_a_weight_of_nothing_is_asked_where_the_others_cool_down() -> None:
    config = config_of(deployment("default", "a", weight=1), deployment("default", "b", weight=0))
    assert [each.why for each in route(config, {}, "default", []).asked] == [
        "100% of the calls",
        "where the others cool down",
    ]


def test_the_lowest_order_is_asked_first_and_the_next_after_it() -> None:
    config = config_of(
        deployment("default", "second", order=2),
        deployment("default", "third", order=7),
        deployment("default", "first", order=1),
        deployment("default", "unordered"),
    )
    found = route(config, {}, "default", [])
    assert [(each.model, each.why) for each in found.asked] == [
        ("first", "first"),
        ("second", "after order 1 failed"),
        ("third", "after order 2 failed"),
    ]


def test_another_strategy_is_named_instead_of_shares() -> None:
    config = config_of(
        deployment("default", "a"), deployment("default", "b"), routing_strategy="latency-based-routing"
    )
    assert {(each.share, each.why) for each in route(config, {}, "default", []).asked} == {
        (None, "by latency-based-routing")
    }


def test_who_lacks_a_credential_is_left_out_and_the_variable_is_named() -> None:
    config = config_of(
        deployment("default", "a", api_key="os.environ/A_KEY"),
        deployment("default", "b", api_key="os.environ/B_KEY"),
    )
    found = route(config, {"A_KEY": "k"}, "default", [])
    assert asked(found) == ["a"]
    assert [(each.model, each.missing) for each in found.left_out] == [("b", ("B_KEY",))]
    assert route(config, {}, "default", []).problem == "set one of A_KEY, B_KEY"
    assert asked(route(config, None, "default", [])) == ["a", "b"]


def test_where_the_tagged_all_cool_down_the_default_may_answer_and_that_is_said() -> None:
    found = route(FLEET, {}, "default", ["cheap"])
    assert [(each.model, each.why) for each in found.instead] == [("plain", "where all of those cool down")]
    assert [each.model for each in found.candidates()] == ["small", "plain"]
    for tags in ([], ["cheap", "expensive"]):
        assert route(FLEET, {}, "default", tags).instead == ()


def test_the_usual_key_of_a_provider_is_missed_where_the_file_gives_none() -> None:
    config = config_of(deployment("default", "openai/gpt-5.4"), deployment("default", "hosted_vllm/own"))
    found = route(config, {}, "default", [])
    assert asked(found) == ["hosted_vllm/own"]
    assert [each.missing for each in found.left_out] == [("OPENAI_API_KEY",)]
    assert route(config, {"OPENAI_API_KEY": "k"}, "default", []).left_out == ()


def test_where_no_tagged_one_can_be_called_the_default_is_and_that_is_said() -> None:
    config = config_of(
        deployment("default", "far"), deployment("default", "near", ["local"], api_base="os.environ/BASE")
    )
    found = route(config, {}, "default", ["local"])
    assert asked(found) == ["far"]
    assert found.why == "those tagged local cannot be called: those tagged default instead"


def test_fallbacks_follow_with_the_tags_of_the_call_a_fallbacks_own_before_its_sibling() -> None:
    config = config_of(
        *(deployment(name, f"model-{name}") for name in "abcde"),
        fallbacks=[{"a": ["b", "c"]}, {"b": ["d"]}, {"*": ["e"]}],
    )
    assert group_fallbacks(config, "a", "fallbacks") == ("b", "d", "e", "c")
    found = route(config, {}, "a", [])
    assert [(each.group, each.when) for each in found.fallbacks] == [
        (name, "if none answers") for name in "bdec"
    ]
    assert [each.model for each in found.candidates()] == [f"model-{name}" for name in "abdec"]


def test_default_fallbacks_are_for_groups_without_their_own_and_ask_nobody_twice() -> None:
    config = config_of(
        *(deployment(name, name) for name in "abc"), fallbacks=[{"a": ["b"]}], default_fallbacks=["c", "a"]
    )
    assert group_fallbacks(config, "a", "fallbacks") == ("b", "c")
    assert group_fallbacks(config, "c", "fallbacks") == ("a", "b")


def test_each_kind_of_error_has_fallbacks_of_its_own() -> None:
    config = config_of(
        *(deployment(name, name) for name in "abc"),
        context_window_fallbacks=[{"a": ["b"]}],
        content_policy_fallbacks=[{"a": ["c"]}],
    )
    assert [(each.group, each.when) for each in route(config, {}, "a", []).fallbacks] == [
        ("b", "if the messages are too long"),
        ("c", "if a policy forbids the answer"),
    ]


def test_the_routers_section_is_stronger_than_the_shared_one() -> None:
    members = tuple(deployment(name, name) for name in "abc")
    shared = {"fallbacks": [{"a": ["b"]}]}
    assert group_fallbacks(LiteLLMConfig(Path("x"), members, {}, shared, {}), "a", "fallbacks") == ("b",)
    own = {"fallbacks": [{"a": ["c"]}]}
    assert group_fallbacks(LiteLLMConfig(Path("x"), members, own, shared, {}), "a", "fallbacks") == ("c",)


def test_an_alias_and_a_pattern_are_groups_too() -> None:
    config = config_of(
        deployment("openai/*", "openai/*"),
        deployment("default", "plain"),
        model_group_alias={"gpt-4": "default", "old": {"model": "default", "hidden": True}},
    )
    assert asked(route(config, {}, "gpt-4", [])) == asked(route(config, {}, "old", [])) == ["plain"]
    assert asked(route(config, None, "openai/gpt-5.4", [])) == ["openai/*"]
    for group in ("gpt-4", "openai/gpt-5.4"):
        check(config, request(model=group))


def request(**fields: Any) -> ModelRequest:
    return ModelRequest(messages=(), user="researcher-agent", **fields)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"model": "defualt"}, r"has no model group 'defualt'\. Did you mean 'default'\?"),
        ({"model": "x"}, "has no model group 'x'. Groups are default"),
        ({"tags": ("reserch",)}, r"no deployment tagged 'reserch'\. Did you mean 'research'\?"),
    ],
)
def test_an_unknown_group_or_tag_is_refused_with_the_near_ones(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ModelRefused, match=said) as refused:
        check(FLEET, request(**fields))
    assert not refused.value.retryable


def test_a_file_with_one_deployment_for_all_serves_tags_that_it_does_not_know() -> None:
    for tags in (["default"], []):
        config = config_of(
            deployment("default", "one", tags=tags), deployment("default", "two", tags=["gpu"])
        )
        check(config, request(tags=("cheap", "research")))
        assert asked(route(config, {}, "default", ["cheap", "research"])) == ["one"]
        assert asked(route(config, {}, "default", ["gpu"])) == ["two"]
    only = config_of(deployment("default", "two", tags=["gpu"]))
    with pytest.raises(ModelRefused, match=r"tagged 'zzz'\. Tags are gpu"):
        check(only, request(tags=("zzz",)))


@pytest.mark.parametrize("group", ["default", "gpt-4o"])
def test_the_only_group_of_a_file_answers_for_those_of_the_shipped_prompts(group: str) -> None:
    config = config_of(deployment(group, "one"))
    for wanted in ("default", "quality", "fast"):
        check(config, request(model=wanted, tags=("cheap",)))
        assert asked(route(config, {}, wanted, ["cheap"])) == ["one"]
    [problem] = tags_nobody_answers(config, {"prompt p": ("quality", ())})
    assert f"has no model group 'quality': '{group}' answers" in str(problem)
    with pytest.raises(ModelRefused, match="has no model group 'other'"):
        check(config, request(model="other"))
    two = config_of(deployment("a", "one"), deployment("b", "two"))
    with pytest.raises(ModelRefused, match="has no model group 'default'"):
        check(two, request(model="default"))


def test_known_tags_that_none_has_together_are_not_refused() -> None:
    check(FLEET, request(tags=("cheap", "expensive")))
    check(FLEET, request())


def test_a_route_of_an_unknown_group_says_so() -> None:
    assert route(FLEET, {}, "nowhere", []).problem == "there is no group 'nowhere'"


def test_callers_whose_tags_nobody_has_are_found() -> None:
    callers: Mapping[str, tuple[str, Sequence[str]]] = {
        "prompt a": ("default", ["reserch"]),
        "prompt b": ("defualt", []),
        "prompt c": ("default", ["medium", "cheap"]),
        "prompt d": ("default", ["research", "cheap"]),
        "prompt e": ("default", []),
    }
    assert [str(each) for each in tags_nobody_answers(FLEET, callers)] == [
        "prompt a: no deployment of litellm_config.yaml is tagged 'reserch'. Did you mean 'research'?",
        "prompt b: litellm_config.yaml has no model group 'defualt'. Did you mean 'default'?",
        "prompt c: no deployment of group 'default' is tagged medium and cheap. "
        "One tagged default answers; tag one with these, or take one away",
    ]


@pytest.mark.parametrize("name", KEYS)
@pytest.mark.parametrize("group", ["default", "quality", "fast"])
def test_in_the_projects_own_file_one_key_reaches_somebody_and_cheap_calls_never_the_expensive(
    group: str, name: str
) -> None:
    config = read_config(ROOT / "litellm_config.yaml")
    assert route(config, {name: "k"}, group, []).problem is None
    found = route(config, {name: "k"}, "default", ["research", "cheap"])
    assert found.asked and not any("expensive" in each.tags for each in found.candidates())


def test_in_the_projects_own_file_quality_falls_back_to_fast() -> None:
    config = read_config(ROOT / "litellm_config.yaml")
    assert group_fallbacks(config, "quality", "fallbacks") == ("fast", "default")
    assert group_fallbacks(config, "fast", "context_window_fallbacks") == ("quality",)
