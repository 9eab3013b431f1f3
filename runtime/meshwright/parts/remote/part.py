"""The part remote."""

from meshwright.component import Part

PART = Part(
    __name__,
    "remote",
    component="component:RemoteComponent",
    settings="settings:RemoteSettings",
    needs=("remote",),
)
