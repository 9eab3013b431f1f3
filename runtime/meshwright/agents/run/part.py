"""The part contents."""

from meshwright.core.part import Part

PART = Part(
    __name__, "contents", component="component:ContentsComponent", events="meshwright.core.step_events:EVENTS"
)
