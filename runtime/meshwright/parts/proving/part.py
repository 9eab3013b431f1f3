"""The part proving."""

from meshwright.component import Part

PART = Part(
    __name__,
    "proving",
    commands={"prove": "Prove the promises on a store: tasks run on it, and processes are killed."},
    heading="Mesh",
)
