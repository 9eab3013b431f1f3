"""infra-manager: manages DNS records, tunnels, routes of the proxy and firewall rules, with approval."""

from meshwright import Agent, Capability
from meshwright.toolsets.dns import DnsTools
from meshwright.toolsets.firewall import FirewallTools
from meshwright.toolsets.proxy import ProxyTools


class InfraManager(Agent):
    """Leads names to services, and guards them; a person approves each change, seen as before and after."""

    agent_id = "infra-manager"
    capabilities = (
        Capability("dns-management", requirements=("dns",)),
        Capability("proxy-management", requirements=("proxy",)),
        Capability("firewall-management", requirements=("firewall",)),
    )
    toolsets = (DnsTools, ProxyTools, FirewallTools)
