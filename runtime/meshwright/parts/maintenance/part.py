"""The part maintenance."""

from meshwright.component import Part

PART = Part(
    __name__,
    "maintenance",
    component="component:MaintenanceComponent",
    settings="settings:MaintenanceSettings",
    events="event_types:EVENTS",
    commands={
        "backup": "Copy all that a mesh keeps to one file, while it runs.",
        "restore": "Make a data folder of a backup.",
        "migrate": "Move a stopped mesh from SQLite to PostgreSQL, or back.",
        "verify": "Verify the event log, the lists and the tasks of a store.",
        "hold": "Begin no more work in any process of a mesh, before mesh release.",
        "release": "Begin the work of a mesh that is held, restored or drained.",
        "drain": "Begin no more work, and let what runs end.",
    },
    heading="Mesh",
)
