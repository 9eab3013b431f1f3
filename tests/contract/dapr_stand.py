"""Hosts on real daprd, Redis and Mosquitto: each in a namespace of its own, each with a sidecar."""

import itertools
import subprocess
from pathlib import Path

from meshwright.host import Host
from meshwright.hosts.dapr import DaprHost, Options
from meshwright.stack.services import free_ports
from tests.contract.stands import Setup, Stand
from tests.services import Services, Sidecar

COPY = """
for _, key in ipairs(redis.call('KEYS', 'state||' .. ARGV[1] .. '/*')) do
    local rest = string.sub(key, #('state||' .. ARGV[1]) + 1)
    if not (string.find(rest, '^/lease/') or string.find(rest, '^/adopting/')) then
        redis.call('COPY', key, 'state||' .. ARGV[2] .. rest)
    end
end
"""
"""All keys of one namespace into another, at one moment, but for what only the living hold."""


class DaprStand(Stand):
    """Workers of one app. Data are a namespace: keys of Redis, topics of the broker, actors of placement."""

    shares_data = True
    channel = "grpc"
    bus = "mqtt"

    def __init__(self, folder: Path, seed: int, services: Services) -> None:
        super().__init__(folder, seed)
        self.services = services
        self._sidecars: dict[Host, Sidecar] = {}
        self._numbers = itertools.count()

    def new_data(self) -> str:
        return f"c{self.folder.name[-12:]}-{next(self._numbers)}".replace("_", "-").lower()

    def build(self, data: str, setup: Setup) -> DaprHost:
        (port,) = free_ports(1)
        pod = f"mesh-{next(self._numbers)}.{data}"
        sidecar = self.services.daprd(
            "mesh", port=port, namespace=data, pod=pod, protocol=self.channel, bus=self.bus
        )
        sidecar.launch()
        options = Options(
            app_id="mesh",
            replica=pod,
            namespace=data,
            grpc_port=sidecar.app.grpc_port,
            app_port=port,
            channel=self.channel,
            api_token=sidecar.app.api_token,
            app_token=sidecar.app.app_token,
            broker_url=self.services.broker_url,
            redrive_seconds=1.0,
            lease_seconds=3.0,
            renew_seconds=0.5,
        )
        host = DaprHost(options, clock=setup.clock, max_mailbox=setup.max_mailbox)
        self._sidecars[host] = sidecar
        return host

    def photograph(self, host: Host) -> str:
        """Redis runs a script alone, so this is one moment; what the broker holds is not in it."""
        _, namespace = self._open[host]
        copy = self.new_data()
        address, port = self.services.redis_host.split(":")
        command = ["redis-cli", "-h", address, "-p", port, "--no-auth-warning", "eval", COPY, "0"]
        subprocess.run(
            [*command, namespace, copy],
            check=True,
            capture_output=True,
            env={"REDISCLI_AUTH": self.services.redis_password},
        )
        return copy

    async def close(self) -> None:
        await super().close()
        for sidecar in self._sidecars.values():
            sidecar.kill()
