"""`mesh prove`: runs tasks on the user's own store, kills its own processes, and judges the outcomes."""
