"""The map of `tests/support` names what is there."""

import re
from pathlib import Path

SUPPORT = Path(__file__).resolve().parents[2] / "support"


def test_the_map_names_each_shared_file_and_no_other() -> None:
    names = set(re.findall(r"`([\w.]+)`", (SUPPORT / "README.md").read_text()))
    files = {path.name for path in SUPPORT.iterdir()} - {"__pycache__", "README.md"}
    fixtures = {"unit_fixtures.py", "contract_fixtures.py", "integration_fixtures.py"}
    missing = sorted(name for name in files - fixtures if not {name, name.removesuffix(".py")} & names)
    assert missing == [], "name them in tests/support/README.md, in the row of what they are for"
    of_others = {"mesh_for", "ScriptedModel", "meshwright.testing", "mesh"}
    assert sorted(names - of_others - files - {name.removesuffix(".py") for name in files}) == []
