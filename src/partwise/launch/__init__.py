"""Starts servers on this machine, or finds those that already listen.

`local.py` talks to `forkserver.py`, a process that imports torch once and forks a server for
each part; `listening.py` is the main function of one server.
"""
