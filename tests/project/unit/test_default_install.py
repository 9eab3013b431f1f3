"""The default install stays small: the packages of its lock are counted."""

from benchmarks.install import MAX_PACKAGES, locked

HEAVY = {"litellm", "numpy", "grpcio", "kubernetes", "psycopg", "mcp", "onnxruntime", "openai", "anthropic"}


def test_the_default_install_has_few_packages() -> None:
    assert len(locked()) + 1 <= MAX_PACKAGES


def test_no_heavy_package_is_in_the_default_install() -> None:
    assert HEAVY.isdisjoint(locked())
