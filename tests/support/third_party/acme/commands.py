"""Acme's commands of `mesh`."""

import click


@click.command()
def page() -> None:
    """Say where pages go."""
    click.echo("Pages go to Acme.")
