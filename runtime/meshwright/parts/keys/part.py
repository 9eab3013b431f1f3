"""The part keys."""

from meshwright.component import Part

PART = Part(
    __name__,
    "keys",
    component="component:KeysComponent",
    settings="meshwright.mesh.identity.settings:KeysSettings",
    events="meshwright.money.event_types:KEY_EVENTS",
    resources="display:RESOURCES",
    commands={
        "keys": "Manage virtual API keys.",
        "erase": "Erase the contents of tasks for good.",
        "secrets": "Manage the keys that encrypt stored secrets.",
    },
    heading="Administration",
)
