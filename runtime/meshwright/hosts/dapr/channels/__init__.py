"""App channels: the two ways in which daprd calls this process. Both do the same, and neither decides."""

from __future__ import annotations

import re
from typing import Literal

from meshwright.hosts.dapr.channels.port import Channel

STREAMS_SINCE = (1, 18)  # the first daprd that serves actors over a gRPC stream


def choose(version: str) -> Literal["grpc", "http"]:
    """The faster channel that a sidecar of this version can serve; "http" where the version says nothing.

    daprd has to be told the same, by `--app-protocol`.
    """
    found = re.match(r"v?(\d+)\.(\d+)", version)
    return "grpc" if found and (int(found[1]), int(found[2])) >= STREAMS_SINCE else "http"


def make_channel(
    name: Literal["grpc", "http"],
    *,
    app_port: int,
    sidecar_port: int,
    api_token: str = "",
    app_token: str = "",
) -> Channel:
    """Make a channel on `app_port` (0 takes any free one); nothing is opened yet.

    `sidecar_port` is daprd's gRPC port and `api_token` what it wants of us; `app_token` is what we want
    of it.
    """
    if name == "grpc":
        from meshwright.hosts.dapr.channels.grpc import GrpcChannel

        return GrpcChannel(app_port, sidecar_port, api_token=api_token, app_token=app_token)
    from meshwright.hosts.dapr.channels.http import HttpChannel

    return HttpChannel(app_port, app_token=app_token)
