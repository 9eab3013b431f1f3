"""Tools for Kubernetes refuse before kubectl runs, here a fake that leaves a trace of each call."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from meshwright.core.errors import ConfigError, InvalidInput, MeshError, ToolFailed
from meshwright.core.settings import load_settings
from meshwright.tools import collect_tools
from meshwright.toolsets.kube_changes import KubeTools
from meshwright.toolsets.kubectl import read_manifest, shown
from tests.support.kube_cluster import settings_of

CONTEXT: Any = None
CONFIG_MAP = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: colours}\n"
KINDS = """pods po v1 true Pod
secrets v1 true Secret
configmaps cm v1 true ConfigMap
namespaces ns v1 false Namespace
"""


@pytest.fixture
def kubectl(tmp_path: Path) -> Path:
    """A program that knows three kinds, and writes down each other call."""
    path = tmp_path / "kubectl"
    answer = f'*api-resources*) printf %s "{KINDS}";;'
    path.write_text(f'#!/bin/sh\ncase "$*" in {answer} *) echo "$*" >> {tmp_path}/calls; exit 1;; esac\n')
    path.chmod(0o755)
    return path


def calling(program: Path, **table: Any) -> Callable[..., Any]:
    usual = {"kubeconfig": "/nowhere", "contexts": ["prod"], "namespaces": ["web", "shop"]}
    toolset = KubeTools(settings_of({**usual, "program": str(program), **table}))
    tools = {tool.name: tool for tool in collect_tools(toolset)}

    async def call(tool: str, /, **arguments: Any) -> Any:
        try:
            return await tools[tool].call(json.dumps(arguments), CONTEXT)
        finally:
            await toolset.close()

    return call


@pytest.mark.parametrize(
    "arguments",
    [
        {"kind": "--kubeconfig=/root/.kube/config"},
        {"kind": "-A"},
        {"kind": "pods,secrets"},
        {"kind": "pods/shop-1"},
        {"kind": "pods; rm -rf /"},
        {"kind": "pods", "name": "-ojsonpath={.data}"},
        {"kind": "pods", "name": "--raw"},
        {"kind": "pods", "name": "../secrets/door"},
        {"kind": "pods", "namespace": "--all-namespaces"},
        {"kind": "pods", "namespace": "kube-system"},
        {"kind": "pods", "name": "shop-1"},
        {"kind": "pods", "selector": "$(reboot)"},
        {"kind": "pods", "cluster": "other"},
        {"kind": "pods", "cluster": "--server=https://evil.example"},
        {"kind": "pods", "output": "yaml"},
        {"kind": "namespaces"},
    ],
)
async def test_hostile_argument_is_refused_before_kubectl_runs(
    kubectl: Path, tmp_path: Path, arguments: dict[str, str]
) -> None:
    with pytest.raises(InvalidInput):
        await calling(kubectl)("kube_get", **arguments)
    assert not (tmp_path / "calls").exists()


@pytest.mark.parametrize(
    ("manifest", "complaint"),
    [
        ("apiVersion: v1\nkind: Secret\nmetadata: {name: a, namespace: web}", "secrets may not be changed"),
        ("apiVersion: v1\nkind: Namespace\nmetadata: {name: a}", "namespaces may not be read"),
        ("apiVersion: v1\nkind: List\nmetadata: {name: a}\nitems: []", "no kind 'List'"),
        (CONFIG_MAP.replace("colours", "colours, namespace: kube-system"), "'kube-system' is not allowed"),
        (CONFIG_MAP, "No namespace is named"),
        (f"{CONFIG_MAP}data: &a {{b: c}}\nmore: *a", "refers to parts of itself"),
        ("[" * 50_000, "more than 50 levels deep"),
        ("- " * 25_000, "more than 50 levels deep"),
        ("\n---\n".join([CONFIG_MAP] * 21), "has 21 objects"),
        ("", "manifest"),
        ("just words", "no object"),
        ("apiVersion: v1\nkind: ConfigMap\nmetadata: {}", "without a name"),
        ("{{ not yaml", "cannot be read"),
        (f"{CONFIG_MAP}data: {{key: '[hidden]'}}", "a text in place of a value"),
        (f"{CONFIG_MAP}data: {{a: .nan}}", "JSON does not"),
        (f"{CONFIG_MAP}data: !!python/object/apply:os.system [reboot]", "cannot be read"),
    ],
)
async def test_manifest_that_may_not_be_applied_is_refused(
    kubectl: Path, tmp_path: Path, manifest: str, complaint: str
) -> None:
    for tool in ("kube_diff", "kube_apply"):
        with pytest.raises(InvalidInput, match=complaint):
            await calling(kubectl)(tool, manifest=manifest)
    assert not (tmp_path / "calls").exists()


async def test_change_of_a_kind_that_is_not_listed_is_refused(kubectl: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="secrets may not be changed"):
        await calling(kubectl, change_kinds=["secrets"])(
            "kube_delete", kind="secrets", name="door", namespace="web", uid="1"
        )
    assert not (tmp_path / "calls").exists()


@pytest.mark.parametrize("missing", ["kubeconfig", "contexts", "namespaces"])
async def test_nothing_listed_allows_nothing(kubectl: Path, missing: str) -> None:
    nothing = {missing: None if missing == "kubeconfig" else []}
    with pytest.raises(ToolFailed, match=r"No cluster is set up.*Write a table \[kube\.default\]"):
        await calling(kubectl, **nothing)("kube_get", kind="pods")
    whole = {"kubeconfig": "/nowhere", "contexts": ["prod"], "namespaces": ["web"]}
    assert len(await KubeTools(settings_of(whole)).tools()) == 12
    assert await KubeTools(settings_of(whole | nothing)).tools() == []


async def test_call_names_the_context_the_kubeconfig_and_the_namespace(kubectl: Path, tmp_path: Path) -> None:
    with pytest.raises(ToolFailed):
        await calling(kubectl)("kube_get", kind="Pod", name="shop-1", namespace="web")
    flags, _, rest = (tmp_path / "calls").read_text().partition(" --cache-dir=")
    assert flags == "--kubeconfig=/nowhere --context=prod"
    assert rest.split()[1:] == [
        "--request-timeout=30s",
        "get",
        "pods",
        "shop-1",
        "--namespace=web",
        "--output=json",
    ]


@pytest.mark.parametrize(
    ("namespaces", "flags"),
    [
        (["web", "shop"], ["--namespace=shop", "--namespace=web"]),
        (["*"], ["--all-namespaces"]),
        (["web"], ["--namespace=web"]),
    ],
)
async def test_list_is_of_all_namespaces_that_are_allowed_and_of_no_other(
    kubectl: Path, tmp_path: Path, namespaces: list[str], flags: list[str]
) -> None:
    call = calling(kubectl, namespaces=namespaces)
    with pytest.raises(ToolFailed):
        await call("kube_get", kind="pods")
    calls = (tmp_path / "calls").read_text().splitlines()
    assert sorted(word for line in calls for word in line.split() if "namespace" in word) == flags
    if namespaces != ["web"]:  # one that is clear needs no name
        with pytest.raises(InvalidInput, match="No namespace is named"):
            await call("kube_get", kind="pods", name="shop-1")


async def test_kubectl_gets_only_the_variables_that_the_settings_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLOUD_PROFILE", "shop")
    monkeypatch.setenv("KUBECONFIG", "/root/.kube/config")
    monkeypatch.setenv("DEPLOY_KEY", "do not pass")
    path = tmp_path / "kubectl"
    path.write_text("#!/bin/sh\nenv >&2\nexit 1\n")
    path.chmod(0o755)
    with pytest.raises(MeshError) as raised:
        await calling(path, environment=["CLOUD_PROFILE"])("kube_get", kind="pods")
    assert "CLOUD_PROFILE=shop" in raised.value.message
    assert "KUBECONFIG=" not in raised.value.message
    assert "DEPLOY_KEY" not in raised.value.message


def test_relative_kubeconfig_is_a_mistake_in_the_settings(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"kube\.prod\.kubeconfig: .*absolute path"):
        load_settings(tmp_path, kube={"prod": {"kubeconfig": "kubeconfig"}})


def test_dates_and_numbers_of_a_manifest_stay_as_they_are_written() -> None:
    [read] = read_manifest(f"{CONFIG_MAP}data: {{day: 2020-01-02, hour: 2020-01-02T03:04:05Z, n: 7}}")
    assert read["data"] == {"day": "2020-01-02", "hour": "2020-01-02T03:04:05Z", "n": 7}


def test_the_data_of_a_secret_is_hidden_wherever_it_stands() -> None:
    last = "kubectl.kubernetes.io/last-applied-configuration"
    secret = {
        "kind": "Secret",
        "metadata": {"name": "door", "annotations": {last: "aHVzaA==", "team": "web"}, "managedFields": [{}]},
        "data": {"key": "aHVzaA=="},
        "stringData": {"code": "hush"},
    }
    hidden = shown({"kind": "List", "items": [secret]})
    assert hidden["items"] == [
        {
            "kind": "Secret",
            "metadata": {"name": "door", "annotations": {"team": "web"}},
            "data": {"key": "[hidden]"},
            "stringData": {"code": "[hidden]"},
        }
    ]
