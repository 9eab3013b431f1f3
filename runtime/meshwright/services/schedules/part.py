"""The part schedules."""

from meshwright.core.part import Part

PART = Part(
    __name__,
    "schedules",
    component="component:SchedulesComponent",
    settings="settings:SchedulesSettings",
    resources="display:RESOURCES",
    commands={
        "schedules": "List schedules, make them, pause, resume and run them.",
    },
    heading="Mesh",
)
