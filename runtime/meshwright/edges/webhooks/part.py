"""The part webhooks."""

from meshwright.core.part import Part

PART = Part(
    __name__,
    "webhooks",
    component="component:WebhooksComponent",
    settings="settings:WebhooksSettings",
    events="meshwright.edges.event_types:WEBHOOK_EVENTS",
    needs=("webhooks.sources", "webhooks.rules", "webhooks.push", "webhooks.notify"),
    commands={"webhooks": "List webhook sources and rules; try a delivery."},
    heading="Mesh",
)
