"""A real Argo CD, as `make argocd` builds it, over an API server of Kubernetes and a git repository."""

import base64
import gzip
import json
import shutil
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import httpx
import pytest

from meshwright.parts.stack.machine import Ports
from meshwright.parts.stack.services import Layer, Service
from tests.support.kube_cluster import BUILD, Cluster, running_cluster
from tests.support.services import Process

HERE = Path(__file__).with_name("argocd")
NAMESPACE = "argocd"
ACCOUNT = "deployer"
ROLES = f"p, {ACCOUNT}, applications, *, */*, allow\np, {ACCOUNT}, repositories, get, *, allow"


class Argocd(NamedTuple):
    """An Argo CD that answers, and a token of an account that may do all with applications."""

    url: str
    token: str
    cluster: Cluster
    repository: "Repository"


class Repository(NamedTuple):
    """A git repository with a ConfigMap in `deploy`, and where Argo CD reads it."""

    folder: Path
    url: str

    def git(self, *arguments: str) -> str:
        command = ["git", "-c", "user.name=t", "-c", "user.email=t@localhost", *arguments]
        done = subprocess.run(command, cwd=self.folder, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    def commit(self, manifest: dict[str, Any]) -> str:
        """Commit a manifest to main; the commit's whole id."""
        path = self.folder / "deploy" / "manifest.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(manifest))
        self.git("add", "--all")
        self.git("commit", "-m", "change")
        return self.git("rev-parse", "HEAD")


@contextmanager
def running_argocd(folder: Path) -> Iterator[Argocd]:
    """Starts all that Argo CD consists of, but its UI and its sign-on; skips where it is not built."""
    program = built()
    with ExitStack() as stack:
        cluster = stack.enter_context(running_cluster(folder))
        repository = stack.enter_context(serving_repository(folder / "repository"))
        prepare(cluster, repository)
        ports = Ports()
        stack.callback(ports.close)
        [store, *numbers] = ports.take(6)
        url = f"http://127.0.0.1:{numbers[0]}"
        for service in services(program, cluster, folder, store, numbers):
            process = Process(service, folder / f"{service.name}.log")
            stack.callback(process.stop)
            process.start()
        yield Argocd(url, token_of(url, cluster), cluster, repository)


def built() -> Path:
    """The program of Argo CD, which is all its parts."""
    asked = subprocess.run(
        [sys.executable, BUILD, "argocd", "--where"], capture_output=True, text=True, check=False
    )
    if asked.returncode:
        pytest.skip("Argo CD is not built: make argocd")
    return Path(asked.stdout.strip())


def prepare(cluster: Cluster, repository: Repository) -> None:
    """The kinds of Argo CD, its settings, and the repository, whose certificate is not looked at."""
    command = ["go", "mod", "download", "-json", "github.com/argoproj/argo-cd/v3"]
    found = subprocess.run(command, cwd=HERE, capture_output=True, text=True, check=True, timeout=120)
    crds = Path(json.loads(found.stdout)["Dir"], "manifests", "crds")
    made = cluster.kubectl("create", f"--kustomize={crds}")
    assert made.returncode == 0, made.stderr
    for kind in (
        "applications",
        "appprojects",
        "applicationsets",
    ):  # a kind is there a moment after it is made
        path = f"/apis/argoproj.io/v1alpha1/{kind}"
        assert any(cluster.kubectl("get", "--raw", path).returncode == 0 for _ in range(100)), path
    about = {"type": "git", "url": repository.url, "insecure": "true"}
    cluster.create(
        *(
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
            for name in (NAMESPACE, "web")
        ),
        part("ConfigMap", "argocd-cm", data={f"accounts.{ACCOUNT}": "apiKey"}),
        part("ConfigMap", "argocd-rbac-cm", data={"policy.csv": ROLES}),
        part("Secret", "argocd-secret"),
        part("Secret", "repository", {"argocd.argoproj.io/secret-type": "repository"}, stringData=about),
    )


def part(kind: str, name: str, labels: dict[str, str] | None = None, **content: Any) -> dict[str, Any]:
    """An object that Argo CD reads as its own."""
    marks = {"app.kubernetes.io/part-of": "argocd", **(labels or {})}
    metadata = {"name": name, "namespace": NAMESPACE, "labels": marks}
    return {"apiVersion": "v1", "kind": kind, "metadata": metadata, **content}


def services(
    program: Path, cluster: Cluster, folder: Path, store: int, ports: list[int]
) -> Iterator[Service]:
    """Redis and the three parts, in their order; the figures of the controller cannot be kept to loopback."""
    api, api_metrics, repo, repo_metrics, controller = ports
    redis = ("--bind", "127.0.0.1", "--port", str(store), "--save", "", "--dir", str(folder))
    where = f"redis://127.0.0.1:{store}"
    yield Service("redis", Layer.STORES, (str(shutil.which("redis-server")), *redis), where, where)
    at = ("--redis", f"127.0.0.1:{store}", "--loglevel", "warn")
    own = (f"--kubeconfig={cluster.kubeconfig}", f"--namespace={NAMESPACE}", "--repo-server-plaintext")
    own += (f"--repo-server=127.0.0.1:{repo}",)
    local = ("--address=127.0.0.1", "--metrics-address=127.0.0.1")
    parts = (
        ("repo-server", repo, (*local, "--disable-tls", f"--port={repo}", f"--metrics-port={repo_metrics}")),
        ("server", api, (*own, *local, "--insecure", f"--port={api}", f"--metrics-port={api_metrics}")),
        ("application-controller", controller, (*own, f"--metrics-port={controller}")),
    )
    environment = {
        "PATH": f"{Path(str(shutil.which('git'))).parent}:/usr/bin:/bin",
        "HOME": str(folder),
        "TMPDIR": str(folder),
        "KUBECONFIG": str(cluster.kubeconfig),
        "ARGOCD_FAKE_IN_CLUSTER": "true",
        "ARGOCD_GPG_ENABLED": "false",
    }
    for name, port, flags in parts:
        more = {**environment, "ARGOCD_BINARY_NAME": f"argocd-{name}"}
        ready = f"tcp://127.0.0.1:{port}" if name == "repo-server" else f"http://127.0.0.1:{port}/healthz"
        yield Service(name, Layer.CONTROL, (str(program), *at, *flags), "", ready, more, ready_seconds=60.0)


def token_of(url: str, cluster: Cluster) -> str:
    """A token of the account, made as an administrator makes one."""
    found = cluster.kubectl("get", "secret", "argocd-initial-admin-secret", "-n", NAMESPACE, "-o", "json")
    password = base64.b64decode(json.loads(found.stdout)["data"]["password"]).decode()
    with httpx.Client(base_url=f"{url}/api/v1", timeout=30) as client:
        session = client.post("/session", json={"username": "admin", "password": password})
        bearer = {"Authorization": f"Bearer {session.raise_for_status().json()['token']}"}
        made = client.post(f"/account/{ACCOUNT}/token", json={}, headers=bearer)
        return made.raise_for_status().json()["token"]


@contextmanager
def serving_repository(folder: Path) -> Iterator[Repository]:
    """Makes a repository, and serves it to git by HTTPS on loopback."""
    folder.mkdir()
    made = ("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "key.pem", "-out", "cert.pem")
    subprocess.run(["openssl", *made, "-subj", "/CN=git"], cwd=folder.parent, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder.parent / "cert.pem", folder.parent / "key.pem")

    class Git(BaseHTTPRequestHandler):
        """The protocol of `git fetch`, and nothing else."""

        def do_GET(self) -> None:
            self.answer("advertisement", b"001e# service=git-upload-pack\n0000", "--advertise-refs")

        def do_POST(self) -> None:
            sent = self.rfile.read(int(self.headers["Content-Length"]))
            asked = gzip.decompress(sent) if self.headers["Content-Encoding"] == "gzip" else sent
            self.answer("result", b"", asked=asked)

        def answer(self, kind: str, head: bytes, *flags: str, asked: bytes = b"") -> None:
            if not urlsplit(self.path).path.startswith("/shop/"):
                return self.send_error(404)
            command = ["git", "upload-pack", "--stateless-rpc", *flags, str(folder)]
            body = head + subprocess.run(command, input=asked, capture_output=True, check=True).stdout
            self.send_response(200)
            self.send_header("Content-Type", f"application/x-git-upload-pack-{kind}")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
            return None

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Git) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()
        repository = Repository(folder, f"https://127.0.0.1:{server.server_port}/shop")
        repository.git("init", "-b", "main")
        try:
            yield repository
        finally:
            server.shutdown()
            thread.join()
