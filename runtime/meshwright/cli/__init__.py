"""The command line: `mesh`."""


def main() -> int:
    """Run `mesh` with the arguments of this process, and return its exit status."""
    from meshwright.cli.app import run

    return run()
