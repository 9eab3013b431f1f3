"""The tests of a part, and of what changed, are chosen by what they import."""

import re
from pathlib import Path

import pytest

from tests.affected import PACKAGE, ROOT, Choice, choose, of_part, parts, since

TESTS = ROOT / "tests"


def files(choice: Choice) -> set[str]:
    return {file.name for file in choice.files}


def test_a_part_is_a_package_a_module_or_a_part_of_services() -> None:
    assert {"money", "mesh", "parts"} <= parts().keys()
    assert parts()["schedules"] == parts()["parts.schedules"]
    assert parts()["trees"] == "agents.trees"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Tests that concern the ledger in each way, and some that do not."""
    texts = {
        "support/books.py": "from meshwright.money import budgets",
        "support/meshes.py": "import meshwright.money, meshwright.cli, meshwright.edges, meshwright.parts",
        "unit/test_imports_it.py": "def test_it():\n    from meshwright.money.budgets import Budgets",
        "unit/test_money_by_name.py": "",
        "unit/test_moneys.py": "",
        "contract/test_uses_support.py": "from tests.support.books import book",
        "contract/test_uses_a_mesh.py": "from tests.support.meshes import mesh",
        "unit/test_other.py": "from meshwright.moneys import Other",
        "integration/test_served.py": "import meshwright.money",
        "acceptance/test_whole.py": "import meshwright.money",
    }
    for name, text in texts.items():
        (tmp_path / "tests" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "tests" / name).write_text(text)
    return tmp_path / "tests"


def test_near_tests_that_import_a_part_are_named_after_it_or_use_its_support(project: Path) -> None:
    choice = of_part("money", project)
    near = {"test_imports_it.py", "test_money_by_name.py", "test_moneys.py", "test_uses_support.py"}
    assert files(choice) == near | {"test_served.py"}  # they are few
    assert {file.name for file in choice.left_out} == {"test_whole.py"}


def test_far_tests_are_left_out_where_near_ones_are_many(project: Path) -> None:
    for number in range(6):
        (project / f"unit/test_money_{number}.py").touch()
    choice = of_part("money", project)
    assert "test_served.py" not in files(choice)
    assert {file.name for file in choice.left_out} == {"test_served.py", "test_whole.py"}


def test_a_name_that_is_no_part_is_refused_with_those_that_are() -> None:
    with pytest.raises(ValueError, match=r"no such part: mony; the parts are agents, .*money, .*toolsets$"):
        of_part("mony", TESTS)


def test_every_package_has_tests() -> None:
    packages = {path for path in parts().values() if (PACKAGE / path / "__init__.py").exists()}
    assert [path for path in sorted(packages) if not of_part(path, TESTS).files] == []


def test_what_changed_is_told_with_its_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [
        "runtime/meshwright/parts/schedules/due.py",
        "tests/support/books.py",
        "tests/core/unit/test_money.py",
    ]
    changed = [ROOT / path for path in [*paths, "docs/data.md"]]
    monkeypatch.setattr("tests.affected.changed_files", lambda revision: changed)
    choices = since("main", TESTS)
    assert choices.keys() == {"parts.schedules", "tests.support.books", "tests.core.unit.test_money"}
    assert "test_schedules.py" in files(choices["parts.schedules"])
    assert files(choices["tests.core.unit.test_money"]) == {"test_money.py"}


def test_a_revision_that_git_does_not_know_is_refused() -> None:
    with pytest.raises(ValueError, match="git knows no revision 'no-such-branch'"):
        choose(None, "no-such-branch", TESTS)


def test_each_reason_has_its_line() -> None:
    reasons, paths = choose("money", None, TESTS)
    assert re.match(
        r"money: \d+ test files import it or are named after it; \d+ that take longer", reasons[0]
    )
    assert reasons[-1].startswith(f"{len(paths)} test files")
