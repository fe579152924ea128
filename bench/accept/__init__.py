"""Runs every line that the finished issues must show, and says which are met.

`line.py` says what a line is, `judges.py` how it is decided, `runner.py` runs one with its
limit and attempts, `state.py` remembers finished lines of a commit, `lines_N.py` are the
lines of issue N. Scripts that only lines run stand beside them.
"""
