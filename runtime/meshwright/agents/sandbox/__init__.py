"""Runs programs for tools: within limits, and in a box that they cannot leave.

    finished = await mesh.get(Sandbox).run(["python3", "-m", "pytest", "-q"], tree)

`boxes` are behind that port, `execution` runs a program in one, `start` is the first program in it, and
`attempts` are the break-outs with which `choice` tries each box before it is used.
"""
