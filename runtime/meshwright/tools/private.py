"""Which files no tool shows: those that commonly hold secrets, and what other tasks and tenants said.

Names are matched ignoring case, in every folder, and with all that lies below them. `*` fits within a name.
"""

from __future__ import annotations

import re

REPOSITORIES = (".git", ".hg", ".svn")
OWN = (
    ".mesh",
    "mesh.db*",
    "mesh.lock",
    "mesh.json",
    "last-error.txt",
    "admin.token",
    "redis.conf",
    "appendonlydir",
)
"""What a data folder holds, wherever one lies and whatever it is called."""
ENVIRONMENTS = (".env", ".env.*", "*.env", ".envrc")
LOGINS = (
    ".netrc",
    "_netrc",
    ".git-credentials",
    ".npmrc",
    ".yarnrc.yml",
    ".pypirc",
    ".pgpass",
    ".my.cnf",
    ".htpasswd",
    ".aws",
    ".azure",
    ".boto",
    ".gnupg",
    ".kube",
    "kubeconfig",
    ".ssh",
    ".vault-token",
    ".docker/config.json",
    ".config/gcloud",
    ".config/gh",
    "credentials.json",
    "client_secret*.json",
    "service-account*.json",
    "service_account*.json",
    "secrets.*",
    "*.secret",
    "*.secrets",
    "terraform.tfstate*",
    "*.tfvars",
)
KEYS = (
    "id_rsa*",
    "id_dsa*",
    "id_ecdsa*",
    "id_ed25519*",
    "*.pem",
    "*.key",
    "*.p12",
    "*.pfx",
    "*.jks",
    "*.keystore",
    "*.kdbx",
    "*.ppk",
    "*.age",
)
PRIVATE = (*REPOSITORIES, *OWN, *ENVIRONMENTS, *LOGINS, *KEYS)

_NAMES = "|".join("[^/]*".join(map(re.escape, name.split("*"))) for name in PRIVATE)
_PATH = re.compile(rf"(?:^|/)(?:{_NAMES})(?:/|$)")


def is_private(path: str) -> bool:
    """Whether a path, relative to the workspace, names a private file or leads through a private folder."""
    return _PATH.search(path.casefold()) is not None
