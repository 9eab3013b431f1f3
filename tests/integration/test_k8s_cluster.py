"""A real API server of Kubernetes takes what `mesh k8s render` writes; `make kube` runs this."""

import asyncio
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from meshwright.stack.machine import Ports
from meshwright.stack.services import Layer, Service
from tests.support.manifests import SCHEMAS, crds_of_dapr
from tests.support.running_mesh import run
from tests.support.services import Process

pytestmark = [
    pytest.mark.soak("the server takes minutes to build, and test_k8s.py holds the schemas"),
    pytest.mark.needs("kubectl", "etcd", "openssl"),
]
ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "tests" / "support" / "build"
TOKEN = "of-the-administrator"
Kubectl = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def kubectl(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kubectl]:
    """Runs kubectl against an API server with the CRDs of Dapr and KEDA, over an etcd of its own."""
    asked = subprocess.run(
        [sys.executable, BUILD, "kube", "--where"], capture_output=True, text=True, check=False
    )
    if asked.returncode:
        pytest.skip("the API server is not built: make kube")
    folder, ports = tmp_path_factory.mktemp("kube"), Ports()
    port, client, peer = ports.take(3)
    etcd = etcd_of(folder, client, peer)
    api = server_of(Path(asked.stdout.strip()), folder, port, client)
    processes = [Process(etcd, folder / "etcd.log"), Process(api, folder / "api.log")]
    config = folder / "kubeconfig"
    config.write_text(json.dumps(kubeconfig(port)))

    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = ["kubectl", f"--kubeconfig={config}", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)

    try:
        for process in processes:
            process.launch()
            asyncio.run(process.ready())
        while call("get", "--raw", "/readyz").returncode:  # it answers before it is ready
            assert processes[1].failure() is None, processes[1].failure()
        crds = [*crds_of_dapr(), *SCHEMAS.glob("keda.sh_*.yaml")]
        made = call("apply", "--server-side", *(f"--filename={path}" for path in crds))
        assert made.returncode == 0, made.stderr
        established = call("wait", "--for=condition=Established", "crd", "--all", "--timeout=60s")
        assert established.returncode == 0, established.stderr
        yield call
    finally:
        for process in reversed(processes):
            process.stop()
        ports.close()


def etcd_of(folder: Path, client: int, peer: int) -> Service:
    own, others = f"http://127.0.0.1:{client}", f"http://127.0.0.1:{peer}"
    flags = {
        "data-dir": str(folder / "etcd"),
        "listen-client-urls": own,
        "advertise-client-urls": own,
        "listen-peer-urls": others,
        "initial-advertise-peer-urls": others,
        "initial-cluster": f"default={others}",
    }
    argv = (str(shutil.which("etcd")), *(f"--{name}={value}" for name, value in flags.items()))
    return Service("etcd", Layer.STORES, argv, own, f"{own}/health")


def server_of(program: Path, folder: Path, port: int, etcd: int) -> Service:
    key, tokens = folder / "accounts.key", folder / "tokens.csv"
    subprocess.run(["openssl", "genrsa", "-out", str(key), "2048"], check=True, capture_output=True)
    tokens.write_text(f'{TOKEN},admin,1,"system:masters"\n')
    flags = {
        "etcd-servers": f"http://127.0.0.1:{etcd}",
        "bind-address": "127.0.0.1",
        "secure-port": str(port),
        "cert-dir": str(folder / "certificates"),
        "token-auth-file": str(tokens),
        "service-account-issuer": "https://kubernetes.default.svc",
        "service-account-signing-key-file": str(key),
        "service-account-key-file": str(key),
        "service-cluster-ip-range": "10.0.0.0/24",
        "authorization-mode": "RBAC",
        "disable-admission-plugins": "ServiceAccount",
    }
    argv = (str(program), *(f"--{name}={value}" for name, value in flags.items()))
    return Service("kube-apiserver", Layer.CONTROL, argv, "", f"tcp://127.0.0.1:{port}", ready_seconds=60.0)


def kubeconfig(port: int) -> dict[str, Any]:
    server = {"server": f"https://127.0.0.1:{port}", "insecure-skip-tls-verify": True}
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": server}],
        "users": [{"name": "admin", "user": {"token": TOKEN}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "admin"}}],
        "current-context": "c",
    }


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
