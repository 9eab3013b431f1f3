"""The part trees."""

from meshwright.core.part import Part

PART = Part(
    __name__,
    "trees",
    component="component:TreesComponent",
    settings="settings:TreesSettings",
    resources="display:RESOURCES",
    commands={"trees": "List the trees that tasks work on; show what was changed."},
    heading="Mesh",
)
