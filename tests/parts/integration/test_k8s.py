"""`mesh k8s render`: what it writes of a project, and that a cluster takes it."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
import yaml

from meshwright.parts.stack.machine import Ports
from tests.support.manifests import Schemas, problems, schemas_of_dapr, schemas_of_keda, schemas_of_kubernetes
from tests.support.running_mesh import mesh, mesh_up, run

ROOT = Path(__file__).resolve().parents[3]
AGENT = '''\
from meshwright import Agent, Capability


class {name}(Agent):
    """Does something."""

    agent_id = "{agent_id}"
    capabilities = (Capability("doing"),)
'''


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The manifests of our own project."""
    folder = tmp_path_factory.mktemp("k8s")
    done = run("k8s", "render", "--to", str(folder), cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with two agents."""
    for folder in ("actors", "prompts"):
        (tmp_path / folder).mkdir()
    for name in ("baker", "cook"):
        (tmp_path / "actors" / f"{name}.py").write_text(AGENT.format(name=name.title(), agent_id=name))
        (tmp_path / "prompts" / f"{name}.prompt").write_text(
            f"---\ndescription: A {name}.\n---\nYou {name}.\n"
        )
    return tmp_path


def documents(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for path in sorted(folder.rglob("*.yaml")):
        if path.name != "kustomization.yaml":
            for document in yaml.safe_load_all(path.read_text("utf-8")):
                yield path.relative_to(folder).as_posix(), document


def texts(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*.yaml")}


def test_our_own_manifests_are_current(rendered: Path) -> None:
    assert texts(ROOT / "k8s") == texts(rendered), "run mesh k8s render"


@pytest.mark.parametrize("text", ["[" * 60 + "]" * 60, "kind: Component\nkind\n", "- a\n"])
def test_a_component_that_cannot_be_read_is_named(project: Path, text: str) -> None:
    copytree(ROOT / "components", project / "components")
    (project / "components/env.yaml").write_text(text)
    done = run("k8s", "render", cwd=project)
    assert done.returncode == 1
    assert "components/env.yaml: " in done.stderr and "unexpected" not in done.stderr


def test_kubernetes_dapr_and_keda_take_every_object(rendered: Path) -> None:
    schemas: Schemas = schemas_of_kubernetes() | schemas_of_keda() | schemas_of_dapr()
    found = {(path, *problems(schemas, document)) for path, document in documents(rendered)}
    assert [faults for faults in found if len(faults) > 1] == []
    kinds = {document["kind"] for _, document in documents(rendered)}
    assert kinds >= {"Deployment", "StatefulSet", "ScaledObject", "NetworkPolicy", "Component"}


def test_a_wrong_field_of_each_would_be_found(rendered: Path) -> None:
    schemas = schemas_of_kubernetes() | schemas_of_keda()
    by_kind = {document["kind"]: document for _, document in documents(rendered)}
    by_kind["Deployment"]["spec"]["template"]["spec"]["containers"][0]["readynessProbe"] = {}
    by_kind["ScaledObject"]["spec"]["maxReplicas"] = 3
    assert "readynessProbe" in problems(schemas, by_kind["Deployment"])[0]
    assert "maxReplicas" in problems(schemas, by_kind["ScaledObject"])[0]


def test_every_name_that_an_overlay_refers_to_is_there(rendered: Path) -> None:
    base = [document for _, document in documents(rendered / "base")]
    for name in ("sqlite", "postgres", "dapr"):
        folder = rendered / "overlays" / name
        listed = yaml.safe_load((folder / "kustomization.yaml").read_text())["resources"]
        assert all((folder / entry).exists() for entry in listed)
        there = base + [document for path, document in documents(folder) if path in listed]
        names = {(document["kind"], document["metadata"]["name"]) for document in there}
        pods = [document["spec"]["template"] for document in there if "template" in document.get("spec", {})]
        assert pods
        for pod in pods:
            assert ("ServiceAccount", pod["spec"]["serviceAccountName"]) in names
            prompts = pod["spec"]["volumes"][0]["projected"]["sources"]
            assert {("ConfigMap", source["configMap"]["name"]) for source in prompts} <= names
        labels = [pod["metadata"]["labels"] for pod in pods]
        selectors = [document["spec"]["selector"] for document in there if document["kind"] == "Service"]
        assert all(selector in labels for selector in selectors)


def test_each_agent_on_dapr_has_a_sidecar_and_its_own_prompt(rendered: Path) -> None:
    path = rendered / "overlays" / "dapr" / "researcher-agent.yaml"
    _, workload, _ = yaml.safe_load_all(path.read_text())
    pod = workload["spec"]["template"]
    assert pod["metadata"]["annotations"]["dapr.io/app-id"] == "researcher-agent"
    (container,) = pod["spec"]["containers"]
    assert container["args"] == ["worker", "--app", "researcher-agent"]
    (source,) = pod["spec"]["volumes"][0]["projected"]["sources"]
    assert source["configMap"]["name"].startswith("prompt-researcher-agent-")
    scoped = [document for _, document in documents(path.parent) if document["kind"] == "Component"]
    listed = yaml.safe_load((path.parent / "kustomization.yaml").read_text())
    (patch,) = yaml.safe_load(listed["patches"][0]["patch"])
    namespace = yaml.safe_load((rendered / "base" / "namespace.yaml").read_text())
    label = patch["path"].rpartition("/")[2].replace("~1", "/")
    assert (namespace["metadata"]["labels"][label], patch["value"]) == ("restricted", "baseline")
    assert scoped and all("researcher-agent" in document["scopes"] for document in scoped)


def test_a_changed_prompt_rolls_the_pods_that_use_it_and_no_others(project: Path) -> None:
    assert run("k8s", "render", cwd=project).returncode == 0
    before = texts(project / "k8s")
    assert {"overlays/dapr/baker.yaml", "overlays/dapr/cook.yaml"} <= before.keys()
    assert run("k8s", "render", "--check", cwd=project).returncode == 0  # twice makes no difference
    (project / "prompts" / "cook.prompt").write_text("---\ndescription: Cooks.\n---\nYou cook well.\n")
    checked = run("k8s", "render", "--check", cwd=project)
    assert checked.returncode == 1 and texts(project / "k8s") == before
    assert run("k8s", "render", cwd=project).returncode == 0
    after = texts(project / "k8s")
    changed = {path for path in before if before[path] != after[path]}
    assert {path for path in changed if path.startswith("overlays/dapr/")} == {
        "overlays/dapr/cook.yaml",
        "overlays/dapr/front.yaml",
    }
    assert changed >= {"base/prompts.yaml", "overlays/sqlite/front.yaml", "overlays/postgres/worker.yaml"}
    for path in changed - {"base/prompts.yaml"}:
        lines = zip(before[path].splitlines(), after[path].splitlines(), strict=True)
        [differs] = [line for line in lines if line[0] != line[1]]
        assert all("name: prompt-cook-" in line for line in differs)


@pytest.mark.needs("kubectl")
def test_kustomize_builds_every_overlay(rendered: Path) -> None:
    for overlay in sorted((rendered / "overlays").iterdir()):
        built = subprocess.run(
            ["kubectl", "kustomize", str(overlay)], capture_output=True, text=True, check=False
        )
        assert (built.returncode, built.stderr) == (0, ""), built.stderr
        found = list(yaml.safe_load_all(built.stdout))
        [namespace] = [document["metadata"]["name"] for document in found if document["kind"] == "Namespace"]
        assert all(
            document["metadata"]["namespace"] == namespace
            for document in found
            if document["kind"] != "Namespace"
        )
        assert {document["kind"] for document in found} >= {"Service", "NetworkPolicy", "PodDisruptionBudget"}


def test_keda_scales_workers_by_the_route_or_by_the_view(project: Path) -> None:
    schemas = schemas_of_keda()
    for scaler, kinds in (
        ("metrics-api", {"ScaledObject", "TriggerAuthentication"}),
        ("postgresql", {"ScaledObject"}),
    ):
        (project / "mesh.toml").write_text(f'[k8s]\nscaler = "{scaler}"\nper_replica = 4\n')
        assert run("k8s", "render", cwd=project).returncode == 0
        found = [document for _, document in documents(project / "k8s/overlays/postgres-keda")]
        assert {document["kind"] for document in found} == kinds
        assert [fault for document in found for fault in problems(schemas, document)] == []
        [scaled] = [document for document in found if document["kind"] == "ScaledObject"]
        [trigger] = scaled["spec"]["triggers"]
        assert trigger["type"] == scaler and "4" in trigger["metadata"].values()
    _, workload, _ = yaml.safe_load_all((project / "k8s/overlays/postgres/worker.yaml").read_text())
    [container] = workload["spec"]["template"]["spec"]["containers"]
    assert scaled["spec"]["scaleTargetRef"] == {"kind": "Deployment", "name": workload["metadata"]["name"]}
    assert trigger["metadata"]["connectionFromEnv"] == "MESH_DATABASE"  # an entry of this Secret
    assert container["envFrom"] == [{"secretRef": {"name": "mesh", "optional": False}}]


def test_an_agent_that_is_gone_takes_its_files_along_and_others_stay(project: Path) -> None:
    assert run("k8s", "render", cwd=project).returncode == 0
    mine = project / "k8s" / "overlays" / "mine" / "kustomization.yaml"
    mine.parent.mkdir()
    mine.write_text("resources: [../dapr]\n")
    (project / "actors" / "cook.py").unlink()
    done = run("k8s", "render", cwd=project)
    assert "delete k8s/overlays/dapr/cook.yaml" in done.stdout
    assert mine.exists() and not (project / "k8s/overlays/dapr/cook.yaml").exists()


def test_settings_say_image_namespace_and_host(project: Path) -> None:
    settings = '[k8s]\nimage = "r.example/mesh:7"\nnamespace = "shop"\nhost = "mesh.example"\n'
    (project / "mesh.toml").write_text(settings)
    assert run("k8s", "render", cwd=project).returncode == 0
    found = [document for _, document in documents(project / "k8s")]
    (ingress,) = (document for document in found if document["kind"] == "Ingress")
    assert ingress["spec"]["tls"] == [{"hosts": ["mesh.example"], "secretName": "mesh-tls"}]
    pods = [
        document["spec"]["template"]["spec"] for document in found if "template" in document.get("spec", {})
    ]
    containers = [container for pod in pods for container in pod["containers"]]
    assert {container["image"] for container in containers} == {"r.example/mesh:7"}
    environment = {entry["name"]: entry.get("value") for entry in containers[0]["env"]}
    allowed = json.loads(environment["MESH_HTTP__ALLOWED_HOSTS"] or "")
    assert {"mesh.example", "front.shop.svc"} <= set(allowed)


@pytest.mark.parametrize(
    ("settings", "agent_id", "said"),
    [
        ("", "My_Cook", "'My_Cook' cannot be an app on Kubernetes"),
        ('[k8s]\nnamespace = "My Shop"\n', "cook", "k8s.namespace"),
        ('[k8s]\nmemory = "lots"\n', "cook", "k8s.memory"),
    ],
)
def test_what_kubernetes_would_refuse_is_refused_first(
    project: Path, settings: str, agent_id: str, said: str
) -> None:
    (project / "actors" / "cook.py").write_text(AGENT.format(name="Cook", agent_id=agent_id))
    (project / "mesh.toml").write_text(settings)
    done = run("k8s", "render", cwd=project)
    assert done.returncode == 1 and said in done.stderr, done.stderr
    assert not (project / "k8s").exists()


async def test_a_probe_says_whether_the_mesh_is_ready(tmp_path: Path, ports: Ports) -> None:
    [silent] = ports.take(1)
    async with mesh_up(tmp_path / "data", MESH_MODELS__ADAPTER="offline") as running:
        asked = await mesh("probe", "--port", running.url.rpartition(":")[2])
        assert (asked.status, asked.out) == (0, "ready\n"), asked.err
    gone = await mesh("probe", "--port", str(silent))
    assert gone.status == 1 and f"127.0.0.1:{silent}/readyz" in gone.err


def test_a_container_of_the_image_is_of_the_user_that_the_manifests_name(rendered: Path) -> None:
    text = (ROOT / "Dockerfile.agent").read_text()
    _, workload, _ = yaml.safe_load_all((rendered / "overlays/postgres/worker.yaml").read_text())
    user = workload["spec"]["template"]["spec"]["securityContext"]["runAsUser"]
    assert f"USER {user}:{user}" in text
    copied = [
        line.split()[1] for line in text.splitlines() if line.startswith("COPY ") and "--from" not in line
    ]
    assert all((ROOT / name).exists() for name in copied if "[" not in name)
