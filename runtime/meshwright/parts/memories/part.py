"""The part memories."""

from meshwright.component import Part

PART = Part(
    __name__,
    "memories",
    component="component:MemoriesComponent",
    settings="settings:MemoriesSettings",
    resources="display:RESOURCES",
    commands={"memory": "List what agents remember, edit, promote and forget it."},
    heading="Mesh",
)
