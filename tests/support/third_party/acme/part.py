"""Acme's parts of a mesh."""

from meshwright import Part

PAGER = Part(
    __name__,
    "pager",
    component="pager:Pager",
    settings="pager:PagerSettings",
    commands={"page": "Say where pages go."},
)
ROTA = Part(
    __name__,
    "rota",
    component="rota:Rota",
    events="rota:EVENTS",
    resources="rota:RESOURCES",
    commands={"rota": "Show who is on call, and take people off."},
)
NIGHT = Part(__name__, "night", component="night:Night")
