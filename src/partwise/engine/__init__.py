"""The coordinator's side: sequences, scheduling of microbatches, generation.

`scheduler.py` decides what to run next (pure), `coordinator.py` does the IO in a thread of
its own, `assembly.py` turns servers into parts of a plan, `text.py` is what people read.
"""
