"""The command that installs an extra is that of the place that Meshwright was installed from."""

import json
from pathlib import Path
from typing import Any

import pytest

from meshwright.core.plugins import install_command


@pytest.mark.parametrize(
    ("origin", "command"),
    [
        (None, "pip install 'meshwright[oidc]'"),
        (
            {"url": "file:///src/a%20mesh", "dir_info": {"editable": True}},
            "pip install -e '/src/a mesh[oidc]'",
        ),
        ({"url": "file:///src/mesh", "dir_info": {}}, "pip install '/src/mesh[oidc]'"),
        (
            {"url": "file:///dist/m.whl", "archive_info": {}},
            "pip install 'meshwright[oidc] @ file:///dist/m.whl'",
        ),
    ],
)
def test_extra_is_installed_from_where_meshwright_came(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, origin: dict[str, Any] | None, command: str
) -> None:
    info = tmp_path / "meshwright-9.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: meshwright\nVersion: 9\n")
    if origin is not None:
        (info / "direct_url.json").write_text(json.dumps(origin))
    monkeypatch.syspath_prepend(str(tmp_path))
    assert install_command("oidc") == command
