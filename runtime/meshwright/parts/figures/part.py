"""The part figures."""

from meshwright.component import Part

PART = Part(
    __name__,
    "figures",
    component="component:FiguresComponent",
    settings="settings:FiguresSettings",
    commands={
        "story": "Tell what happened since a time, such as last night.",
        "workers": "List workers with their leases, slots and tasks.",
    },
    heading="Mesh",
)
