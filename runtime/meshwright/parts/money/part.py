"""The part money."""

from meshwright.component import Part

PART = Part(__name__, "money", component="component:TaskMoney")
