"""What Meshwright costs, beside hand-written floors that do the same work in the same run.

`make bench` prints a row for each measure; docs/benchmarks.md says what each means. A benchmark is a module
with `async def measure(bench) -> list[Row]`; its floor, where it has one, stands beside it. Sides run in
processes of their own and take turns, so that neither inherits the other's heap or the machine's mood.
"""
