"""Components that every mesh has: see meshwright.parts."""
