"""A real API server of Kubernetes over an etcd, as `make kube` builds it; no kubelet runs its pods."""

import json
import shutil
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from meshwright.parts.stack.machine import Ports
from meshwright.parts.stack.services import Layer, Service
from meshwright.tools import ToolSettings
from meshwright.toolsets.settings import KubeSettings
from tests.support.services import Process

BUILD = Path(__file__).with_name("build")
TOKEN = "of-the-administrator"
CONTEXT = "c"


class Cluster(NamedTuple):
    """An API server that answers, and the kubeconfig of its administrator."""

    kubeconfig: Path

    def kubectl(self, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        command = ["kubectl", f"--kubeconfig={self.kubeconfig}", *arguments]
        return subprocess.run(command, input=stdin, capture_output=True, text=True, check=False, timeout=120)

    def create(self, *objects: dict[str, Any]) -> None:
        items = {"apiVersion": "v1", "kind": "List", "items": objects}
        made = self.kubectl("create", "--filename=-", stdin=json.dumps(items))
        assert made.returncode == 0, made.stderr


def settings_of(table: dict[str, Any]) -> ToolSettings:
    """The settings of tools with a table [kube.default]."""
    return ToolSettings(kinds={"kube": {"default": KubeSettings.model_validate(table)}}, table="default")


def certified(folder: Path) -> ssl.SSLContext:
    """TLS of a server whose certificate only a client that checks none takes."""
    made = ("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "key.pem", "-out", "cert.pem")
    subprocess.run(["openssl", *made, "-subj", "/CN=kubelet"], cwd=folder, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    return context


@contextmanager
def running_cluster(folder: Path) -> Iterator[Cluster]:
    """Starts etcd and the API server; skips where that is not built."""
    asked = subprocess.run(
        [sys.executable, BUILD, "kube", "--where"], capture_output=True, text=True, check=False
    )
    if asked.returncode:
        pytest.skip("the API server is not built: make kube")
    ports = Ports()
    port, client, peer = ports.take(3)
    etcd = etcd_of(folder, client, peer)
    api = server_of(Path(asked.stdout.strip()), folder, port, client)
    processes = [Process(etcd, folder / "etcd.log"), Process(api, folder / "api.log")]
    cluster = Cluster(folder / "kubeconfig")
    cluster.kubeconfig.write_text(json.dumps(kubeconfig(port)))
    try:
        for process in processes:
            process.start()
        while cluster.kubectl("get", "--raw", "/readyz").returncode:  # it answers before it is ready
            assert processes[1].failure() is None, processes[1].failure()
        yield cluster
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
        "contexts": [{"name": CONTEXT, "context": {"cluster": "c", "user": "admin"}}],
        "current-context": CONTEXT,
    }
