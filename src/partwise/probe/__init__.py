"""Measures this machine with the runners' real kernels, and the link to another.

`probing.py` measures a host in a process of its own: `points.py` says what, `team.py` how,
`overhead.py` a runner's own cost, `disk.py` the store's; `assemble.py` makes the host of a
cluster file of it, and `figures.py` says whether to trust it. `link.py` measures a link.
"""
