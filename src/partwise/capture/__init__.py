"""A `torch.nn.Module` as data: the graph of its operations, its description, its neurons.

What is captured is a value (`graph.py`) that servers read from a directory (`files.py`): nothing
in it is code, and what it names is looked up in a fixed table (`table.py`).
"""
