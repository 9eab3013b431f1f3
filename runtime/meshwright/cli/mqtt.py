"""`mesh mqtt acl`: the rights of the broker, made from the settings."""

from __future__ import annotations

from pathlib import Path

import click


@click.group()
def mqtt() -> None:
    """Print the rights of clients for the MQTT broker."""


@mqtt.command()
def acl() -> None:
    """Print the acl_file of Mosquitto for [mqtt] and [[mqtt.clients]].

    Each client publishes below its own name, and reads its own replies and what its roles let it see of its
    tenant. All else at the broker is closed to clients and to the mesh's own user.
    """
    from meshwright.identity.broker_rights import broker_acl, lets_anybody_in
    from meshwright.settings import load_settings

    settings = load_settings(Path())
    if lets_anybody_in(settings):
        click.echo(
            "mesh: warning: mqtt.clients is empty: clients that do not log in may do everything; "
            "use this on loopback alone",
            err=True,
        )
    click.echo("\n".join(broker_acl(settings, settings.mqtt.username or "mesh")))
