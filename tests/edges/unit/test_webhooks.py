"""Deliveries of webhooks: who signed them, what they are known by, which tasks and events they become."""

import base64
import hashlib
import hmac
import json
from typing import Any

import pytest

from meshwright.core.comments import mark_comment
from meshwright.core.errors import ConfigError
from meshwright.edges.deliveries import is_signed, standard_key, standard_signature
from meshwright.edges.outgoing_requests import HttpReply, asked_pause
from meshwright.edges.webhooks.component import load_sources
from meshwright.edges.webhooks.kinds import DeliveryItem, board_event, delivery_items, delivery_kind
from meshwright.edges.webhooks.receiver import Source, TaskRule, render
from meshwright.edges.webhooks.senders import forge_address
from meshwright.edges.webhooks.settings import WebhookRule, WebhookSource, WebhooksSettings

# As GitHub's documentation has them: "Testing the webhook payload validation".
GITHUB_SECRET, GITHUB_PAYLOAD = "It's a Secret to Everybody", b"Hello, World!"
GITHUB_SIGNATURE = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"
# As the tests of Standard Webhooks' own libraries have them.
STANDARD_SECRET, STANDARD_BODY = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", b'{"test": 2432232314}'
STANDARD = {
    "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
    "webhook-timestamp": "1614265330",
    "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
}
SIGNED_AT = 1614265330
ISSUE: dict[str, Any] = {
    "action": "opened",
    "issue": {
        "number": 7,
        "title": "It is broken",
        "body": "Badly {{repository.full_name}}",
        "html_url": "u",
    },
    "repository": {"full_name": "acme/api"},
    "sender": {"login": "ada"},
}
ALERTS = {
    "version": "4",
    "status": "firing",
    "groupLabels": {"team": "blue"},
    "alerts": [
        {
            "status": "firing",
            "fingerprint": "f1",
            "startsAt": "2030-01-01T00:00:00Z",
            "labels": {"alertname": "Down"},
        },
        {"status": "resolved", "fingerprint": "f1", "startsAt": "2030-01-01T00:00:00Z", "labels": {}},
    ],
}


def source(name: str = "hook", **settings: Any) -> Source:
    settings = {"kind": "generic", "insecure": True} | settings
    return Source(name, WebhookSource(**settings), ())


def signed(kind: str, headers: dict[str, str], body: bytes, secret: str, now: float = 0, **more: Any) -> bool:
    settings = WebhookSource(kind=kind, secret=secret, **more)  # pyrefly: ignore
    return is_signed(delivery_kind(settings, secret), secret, headers, body, now)


def test_signature_of_githubs_documentation_is_accepted() -> None:
    headers = {"x-hub-signature-256": GITHUB_SIGNATURE}
    assert signed("github", headers, GITHUB_PAYLOAD, GITHUB_SECRET)
    assert not signed("github", headers, GITHUB_PAYLOAD + b" ", GITHUB_SECRET)
    assert not signed("github", headers, GITHUB_PAYLOAD, GITHUB_SECRET + "!")
    assert not signed("github", {}, GITHUB_PAYLOAD, GITHUB_SECRET)
    assert not signed("github", {"x-hub-signature-256": "sha256=ü"}, GITHUB_PAYLOAD, GITHUB_SECRET)


def test_signature_of_standard_webhooks_is_made_and_accepted() -> None:
    key = standard_key(STANDARD_SECRET)
    made = standard_signature(key, STANDARD["webhook-id"], SIGNED_AT, STANDARD_BODY)
    assert made == STANDARD["webhook-signature"]
    several = STANDARD | {"webhook-signature": f"v1a,xxxx {made} v1,other="}
    for headers in (STANDARD, several):
        assert signed("generic", headers, STANDARD_BODY, STANDARD_SECRET, SIGNED_AT + 299, scheme="standard")
        assert signed("gitlab", headers, STANDARD_BODY, STANDARD_SECRET, SIGNED_AT)
    for change in (
        {"webhook-id": "msg_2"},
        {"webhook-timestamp": "1614265331"},
        {"webhook-signature": "v1,"},
    ):
        assert not signed("gitlab", STANDARD | change, STANDARD_BODY, STANDARD_SECRET, SIGNED_AT)
    for now in (SIGNED_AT - 301, SIGNED_AT + 301):
        assert not signed("gitlab", STANDARD, STANDARD_BODY, STANDARD_SECRET, now)


@pytest.mark.parametrize(
    "secret", ["", "secret", "whsec_", "whsec_c2hvcnQ=", "whsec_!!", "whsec_" + "A" * 100]
)
def test_secret_that_standard_webhooks_do_not_know_is_refused(secret: str) -> None:
    with pytest.raises(ValueError, match="openssl rand") as refused:
        standard_key(secret)
    assert not secret[6:] or secret[6:] not in str(refused.value)


def test_grafana_signs_the_body_alone_or_behind_a_timestamp() -> None:
    body, now = b'{"status":"firing"}', 1_700_000_000
    alone = hmac.new(b"s", body, hashlib.sha256).hexdigest()
    timed = hmac.new(b"s", b"%d:%s" % (now, body), hashlib.sha256).hexdigest()
    for header in ("x-grafana-alerting-signature", "x-grafana-alert-signature"):
        assert signed("grafana", {header: alone}, body, "s")
    headers = {"x-grafana-alerting-signature": timed, "x-time": str(now)}
    assert signed("grafana", headers, body, "s", now + 10, timestamp_header="X-Time")
    assert not signed("grafana", headers, body, "s", now + 301, timestamp_header="X-Time")
    assert not signed(
        "grafana", {"x-grafana-alerting-signature": alone}, body, "s", timestamp_header="X-Time"
    )


def test_tokens_are_compared_where_each_kind_has_them() -> None:
    assert signed("gitlab", {"x-gitlab-token": "t"}, b"", "t")
    assert not signed("gitlab", {"x-gitlab-token": "T"}, b"", "t")
    assert signed("alertmanager", {"authorization": "Bearer t"}, b"", "t")
    assert not signed("alertmanager", {"authorization": "Basic t"}, b"", "t")
    basic = {"authorization": "Basic bWU6c2VjcmV0"}
    assert signed("alertmanager", basic, b"", "me:secret", scheme="basic")
    assert not signed("alertmanager", basic, b"", "me:other", scheme="basic")
    in_base64 = {"x-sig": base64.b64encode(hmac.digest(b"s", b"body", "sha256")).decode()}
    assert signed("generic", in_base64, b"body", "s", scheme="hmac", header="X-Sig")


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, "needs a secret"),
        ({"secret": ""}, "empty"),
        ({"secret": "s"}, "scheme"),
        ({"secret": "s", "scheme": "hmac"}, "header"),
    ],
)
def test_source_that_proves_nothing_is_refused(settings: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        WebhookSource(**settings)


def ids(
    kind: dict[str, Any], headers: dict[str, str], document: dict[str, Any], body: bytes = b"{}"
) -> list[str]:
    return [item.delivery_id for item in delivery_items(source(**kind).kind, headers, body, document)]


def test_delivery_is_known_by_the_id_that_stays_the_same() -> None:
    assert ids({"kind": "github"}, {"x-github-delivery": "d-1"}, ISSUE) == ["d-1"]
    gitlab = {"idempotency-key": "k-1", "x-gitlab-webhook-uuid": "another", "x-gitlab-event-uuid": "shared"}
    assert ids({"kind": "gitlab"}, gitlab, {}) == ["k-1"]
    assert ids({"id_fields": ["a.b", "c"]}, {}, {"a": {"b": 1}, "c": "x"}) == ["1|x"]
    by_body = ids({}, {}, {}, b'{"n": 1}')
    assert by_body == ids({}, {}, {}, b'{"n": 1}') != ids({}, {}, {}, b'{"n": 2}')
    odd = ids({"kind": "github"}, {"x-github-delivery": "a\nb" * 200}, ISSUE)
    assert odd[0].startswith("sha256:") and len(odd[0]) < 80


def test_alerts_of_a_group_are_events_of_their_own() -> None:
    items = list(delivery_items(source(kind="alertmanager").kind, {}, b"", ALERTS))
    assert [item.event for item in items] == ["firing", "resolved"]
    assert [item.delivery_id for item in items] == [
        f"f1|2030-01-01T00:00:00Z|{status}" for status in ("firing", "resolved")
    ]
    assert render("{{alert.labels.alertname}} {{groupLabels.team}} {{alerts}}", items[0]) == "Down blue "
    regrouped = ALERTS | {"alerts": ALERTS["alerts"][:1], "groupLabels": {}}
    [again] = delivery_items(source(kind="grafana").kind, {}, b"", regrouped)
    assert again.delivery_id == items[0].delivery_id


def test_template_takes_fields_and_nothing_else() -> None:
    item = DeliveryItem("d", "issues", ISSUE | {"labels": ["a", {"b": True}], "none": None, "n": 1.5})
    written = "{{issue.body}}|{{ issue.number }}|{{labels.1.b}}|{{labels}}|{{none}}{{x.y}}|{{n}}|{{event}}"
    written += "|{{{{n}}}}"
    expected = 'Badly {{repository.full_name}}|7|true|["a",{"b":true}]||1.5|issues|{{1.5}}'
    assert render(written, item) == expected
    assert len(render("{{big}}", DeliveryItem("d", "", {"big": "x" * 100_000}))) == 20_000


def rule(**settings: Any) -> TaskRule:
    return TaskRule(WebhookRule(**{"source": "hook", "agent": "echo", "text": "t"} | settings))


@pytest.mark.parametrize(
    ("match", "fits"),
    [
        ({}, True),
        ({"event": "issues", "action": "opened", "repository.full_name": "acme/*"}, True),
        ({"action": ["closed", "open*"]}, True),
        ({"issue.number": "7"}, True),
        ({"action": "OPENED"}, False),
        ({"event": "issues", "issue.missing": "*"}, False),
        ({"action": []}, False),
    ],
)
def test_rule_fits_where_every_field_does(match: dict[str, Any], fits: bool) -> None:
    assert rule(match=match).fits(DeliveryItem("d", "issues", ISSUE)) is fits


def test_task_of_an_event_is_the_same_each_time_and_for_each_rule_another() -> None:
    item = DeliveryItem("d", "issues", ISSUE)

    def task_id(tenant: str = "default", delivery: str = "d", **settings: Any) -> str:
        return rule(**settings).request(item._replace(delivery_id=delivery), tenant, 262_144).task_id or ""

    assert task_id() == task_id(text="other words", reply="none", budget_usd="1")
    different = [
        task_id(),
        task_id("acme"),
        task_id(delivery="e"),
        task_id(agent="x"),
        task_id(match={"a": "b"}),
    ]
    different += [task_id(source="other"), task_id(name="one"), task_id(name="two")]
    assert len(set(different)) == len(different)


def test_payload_of_a_rule_keeps_the_types_of_fields() -> None:
    payload = {
        "number": "{{issue.number}}",
        "title": "#{{issue.number}}: {{issue.title}}",
        "repository": "{{ repository }}",
        "gone": "{{issue.gone}}",
        "labels": ["{{event}}", "fixed", {"text": "{{issue.body}}"}],
        "count": 3,
    }
    request = rule(text=None, payload=payload).request(DeliveryItem("d", "issues", ISSUE), "default", 262_144)
    assert request.payload == {
        "number": 7,
        "title": "#7: It is broken",
        "repository": {"full_name": "acme/api"},
        "labels": ["issues", "fixed", {"text": "Badly {{repository.full_name}}"}],
        "count": 3,
    }


def test_text_of_a_task_fits_into_its_payload() -> None:
    item = DeliveryItem("d", "issues", ISSUE | {"body": "\0" * 30_000})
    request = rule(text="{{body}}{{body}}{{body}}").request(item, "default", 10_000)
    assert len(request.model_dump_json(include={"payload"})) < 10_020
    assert request.payload["text"].endswith("[cut]")
    request = rule(text="{{body}}", payload={"more": "x" * 5_000}).request(item, "default", 10_000)
    assert len(request.model_dump_json(include={"payload"})) < 10_020


def test_thread_with_fields_is_apart_from_threads_that_people_name() -> None:
    def thread(template: str, title: str = "ops") -> str | None:
        fields = ISSUE | {"issue": {"title": title, "number": 7}}
        return rule(thread=template).request(DeliveryItem("d", "", fields), "default", 262_144).thread_id

    assert thread("ops") == "ops"
    assert thread("{{issue.title}}") != "ops"
    named = thread("github:{{repository.full_name}}#{{issue.number}}")
    assert named is not None and named.startswith("github-acme-api-7-") and len(named) <= 64
    assert thread("{{issue.title}}", "a b") != thread("{{issue.title}}", "a-b")
    assert thread("{{missing}}") is None


def test_rules_that_cannot_be_told_apart_are_refused() -> None:
    sources = {"hook": {"insecure": True}}
    one = {"source": "hook", "agent": "echo", "text": "t"}
    with pytest.raises(ConfigError, match="number 2"):
        load_sources(WebhooksSettings(sources=sources, rules=[one, one | {"text": "u"}]))  # pyrefly: ignore
    found = load_sources(WebhooksSettings(sources=sources, rules=[one, one | {"name": "u"}]))  # pyrefly: ignore
    assert len(found["hook"].rules) == 2


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"source": "gone"}, "there is none"),
        ({"agent": None}, "neither"),
        ({"text": None}, "needs a text, or a payload"),
        ({"payload": {"text": "u"}}, "another one in its payload"),
        ({"reply": "comment"}, "github and gitlab"),
        ({"source": "forge", "reply": "comment"}, "no token"),
    ],
)
def test_rule_that_could_never_work_is_refused(change: dict[str, Any], expected: str) -> None:
    sources = {"hook": {"insecure": True}, "forge": {"kind": "github", "secret": "s"}}
    with pytest.raises(ValueError, match=expected):
        WebhooksSettings(sources=sources, rules=[{"source": "hook", "agent": "a", "text": "t"} | change])  # pyrefly: ignore


@pytest.mark.parametrize(
    ("kind", "event", "fields", "expected"),
    [
        ("github", "issues", ISSUE, "board.issue_opened"),
        ("github", "issues", ISSUE | {"action": "pinned"}, None),
        (
            "github",
            "pull_request",
            {"action": "closed", "pull_request": {"merged": True}},
            "board.pull_request_merged",
        ),
        (
            "github",
            "pull_request",
            {"action": "closed", "pull_request": {"merged": False}},
            "board.pull_request_closed",
        ),
        ("github", "projects_v2_item", {"action": "edited"}, "board.card_moved"),
        (
            "gitlab",
            "Merge Request Hook",
            {"object_attributes": {"action": "merge"}},
            "board.pull_request_merged",
        ),
        ("generic", "issues", ISSUE, None),
    ],
)
def test_delivery_is_an_event_of_the_board(kind: str, event: str, fields: Any, expected: str | None) -> None:
    found = board_event(kind, DeliveryItem("d", event, fields))
    assert (found and found[0]) == expected


def test_board_event_says_which_issue_and_who() -> None:
    found = board_event("github", DeliveryItem("d", "issues", ISSUE | {"sender": {"login": ["odd"]}}))
    assert found is not None
    known = {"repository": "acme/api", "number": 7, "title": "It is broken", "actor": "", "url": "u"}
    assert found[1] == known


@pytest.mark.parametrize(
    ("kind", "reply", "fields", "path"),
    [
        ("github", "comment", ISSUE, "/repos/acme/api/issues/7/comments"),
        ("github", "comment", ISSUE | {"repository": {"full_name": "../../user"}}, None),
        ("github", "comment", ISSUE | {"issue": {"number": "7/../8"}}, None),
        ("github", "status", ISSUE | {"after": "a" * 40}, f"/repos/acme/api/statuses/{'a' * 40}"),
        ("github", "status", ISSUE | {"after": "main"}, None),
        ("github", "none", ISSUE, None),
        (
            "gitlab",
            "comment",
            {
                "object_kind": "merge_request",
                "object_attributes": {"iid": 3},
                "project": {"path_with_namespace": "g/sub/p"},
            },
            "/projects/g%2Fsub%2Fp/merge_requests/3/notes",
        ),
        (
            "gitlab",
            "comment",
            {"object_kind": "note", "issue": {"iid": 4}, "project": {"path_with_namespace": "g/p"}},
            "/projects/g%2Fp/issues/4/notes",
        ),
        ("generic", "none", ISSUE, None),
    ],
)
def test_outcome_goes_back_to_where_the_event_happened(
    kind: str, reply: Any, fields: Any, path: str | None
) -> None:
    address = forge_address(kind, rule(reply=reply).settings, DeliveryItem("d", "", fields))
    assert (address and address.path) == path


@pytest.mark.parametrize(
    ("status", "headers", "body", "seconds"),
    [
        (429, {"Retry-After": "30"}, b"", 30),
        (503, {"Retry-After": "7"}, b"", 7),
        (429, {"Retry-After": "86400"}, b"", 60),
        (403, {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": str(2**40)}, b"", 60),
        (403, {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "1"}, b"", 1),
        (403, {"X-RateLimit-Remaining": "4999"}, b"You have exceeded a secondary rate limit.", 60),
        (429, {"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}, b"", 60),
        (403, {}, b"Resource not accessible by integration", None),
        (500, {}, b"", None),
    ],
)
def test_pause_is_what_the_server_asks_for(
    status: int, headers: dict[str, str], body: bytes, seconds: float | None
) -> None:
    assert asked_pause(HttpReply(status, headers, body)) == seconds


OURS = mark_comment("Fixed.", "task 01ABC")


def heard(kind: str, event: str, document: dict[str, Any]) -> tuple[bool, str]:
    """Whether an event makes a task by a rule for all, and the name of what it tells of."""
    settings = WebhookSource(kind=kind, secret="s")  # pyrefly: ignore
    every = TaskRule(WebhookRule(source="hook", agent="echo", text="x"))
    source = Source("hook", settings, [every])
    header = {"github": "x-github-event", "gitlab": "x-gitlab-event"}[kind]
    [item] = delivery_items(source.kind, {header: event, "idempotency-key": "k"}, b"{}", document)
    return bool(source.choose(item).rules), item.happening


@pytest.mark.parametrize(
    ("kind", "event", "document"),
    [
        ("github", "pull_request_review", {"action": "submitted", "review": {"id": 1, "body": OURS}}),
        ("github", "pull_request_review_comment", {"action": "created", "comment": {"id": 1, "body": OURS}}),
        ("github", "commit_comment", {"action": "created", "comment": {"id": 1, "body": OURS}}),
        ("gitlab", "Note Hook", {"object_attributes": {"id": 1, "action": "create", "note": OURS}}),
        (
            "gitlab",
            "Note Hook",
            {"object_attributes": {"id": 1, "action": "update", "note": OURS.replace("Fixed", "Mended")}},
        ),
    ],
)
def test_comments_of_a_mesh_are_known_on_each_forge(kind: str, event: str, document: dict[str, Any]) -> None:
    assert not heard(kind, event, document)[0]
    quoted = json.loads(json.dumps(document).replace(json.dumps(OURS)[1:-1], "> Fixed.\\n\\nNo."))
    assert heard(kind, event, quoted)[0] or "update" in str(document)


def test_what_two_hooks_tell_of_has_one_name() -> None:
    note = {"object_attributes": {"id": 7, "action": "create", "note": "Look."}}
    assert (
        heard("gitlab", "Note Hook", note)[1] == heard("gitlab", "Note Hook", {**note, "group": 1})[1] != ""
    )
    review = {"action": "submitted", "review": {"id": 7, "body": None}}
    assert heard("github", "pull_request_review", review)[1] != ""
    opened = {"action": "opened", "issue": {"id": 7, "title": "t", "body": None}}
    labelled = {**opened, "action": "labeled"}
    assert heard("github", "issues", opened)[1] != "" == heard("github", "issues", labelled)[1]
    assert heard("github", "issues", ISSUE)[1] == "", "without an id it has none"
