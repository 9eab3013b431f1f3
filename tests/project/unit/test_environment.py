"""The environment that tests get: theirs alone, with the settings that are for them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
VERSIONS = "tests/journeys/integration/test_versions.py"


def test_tests_of_versions_resolve_as_make_newest_asks() -> None:
    environment = {**os.environ, "SOAK": "1", "MESH_TEST_RESOLUTION": "highest"}
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", VERSIONS]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    tests = [line for line in done.stdout.splitlines() if line.startswith(VERSIONS)]
    assert tests and all("highest" in test for test in tests), tests
