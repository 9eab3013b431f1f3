"""Actors on Dapr: real daprd, a state store, an MQTT broker or Redis streams, placement and scheduler."""

from meshwright.hosts.dapr.host import DaprHost
from meshwright.hosts.dapr.options import Options

__all__ = ["DaprHost", "Options"]
