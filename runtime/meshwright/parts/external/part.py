"""The part external."""

from meshwright.component import Part

PART = Part(
    __name__,
    "external",
    component="component:ExternalComponent",
    settings="settings:ExternalSettings",
    needs=("external",),
)
