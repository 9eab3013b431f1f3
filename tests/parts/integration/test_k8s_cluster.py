"""A real API server of Kubernetes takes what `mesh k8s render` writes; `make kube` runs this."""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.kube_cluster import running_cluster
from tests.support.manifests import SCHEMAS, crds_of_dapr
from tests.support.running_mesh import run

pytestmark = [
    pytest.mark.soak("the server takes minutes to build, and test_k8s.py holds the schemas"),
    pytest.mark.needs("kubectl", "etcd", "openssl"),
]
ROOT = Path(__file__).resolve().parents[3]
Kubectl = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def kubectl(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kubectl]:
    """Runs kubectl against an API server with the CRDs of Dapr and KEDA."""
    with running_cluster(tmp_path_factory.mktemp("kube")) as cluster:
        crds = [*crds_of_dapr(), *SCHEMAS.glob("keda.sh_*.yaml")]
        made = cluster.kubectl("apply", "--server-side", *(f"--filename={path}" for path in crds))
        assert made.returncode == 0, made.stderr
        established = cluster.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=60s")
        assert established.returncode == 0, established.stderr
        yield cluster.kubectl


def rendered(folder: Path, namespace: str) -> Path:
    environment = {"MESH_K8S__NAMESPACE": namespace, "MESH_K8S__HOST": "mesh.example"}
    done = run("k8s", "render", "--to", str(folder), cwd=ROOT, **environment)
    assert done.returncode == 0, done.stderr
    return folder / "overlays"


def apply(kubectl: Kubectl, overlay: Path) -> subprocess.CompletedProcess[str]:
    return kubectl("apply", "--server-side", "--validate=strict", "-o", "json", "--kustomize", str(overlay))


@pytest.mark.parametrize("overlay", ["sqlite", "postgres", "postgres-keda", "dapr", "dapr-keda"])
def test_a_cluster_takes_an_overlay_without_a_warning_and_again_without_a_change(
    kubectl: Kubectl, tmp_path: Path, overlay: str
) -> None:
    folder = rendered(tmp_path / "k8s", overlay) / overlay
    first = apply(kubectl, folder)
    assert (first.returncode, first.stderr) == (0, ""), first.stderr
    second = apply(kubectl, folder)
    assert (second.returncode, second.stderr) == (0, ""), second.stderr
    assert second.stdout == first.stdout  # with the versions that the server has given
    kinds = kubectl("get", "sts,deploy,pdb,netpol,ing,sa,cm,svc", "-n", overlay, "-o", "name").stdout.split()
    assert "statefulset.apps/front" in kinds or "deployment.apps/front" in kinds


def test_pods_that_may_do_more_than_ours_and_unknown_fields_are_refused(
    kubectl: Kubectl, tmp_path: Path
) -> None:
    folder = rendered(tmp_path / "k8s", "refused")
    assert apply(kubectl, folder / "sqlite").returncode == 0
    path = folder / "sqlite" / "front.yaml"
    text = path.read_text()
    path.write_text(text.replace("runAsNonRoot: true", "runAsNonRoot: false"))
    assert 'would violate PodSecurity "restricted' in apply(kubectl, folder / "sqlite").stderr
    path.write_text(text.replace("readinessProbe:", "readynessProbe:"))
    done = apply(kubectl, folder / "sqlite")
    assert done.returncode == 1 and "readynessProbe" in done.stderr
