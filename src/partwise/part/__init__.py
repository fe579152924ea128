"""A server's side: holds one part of a model and computes its layers.

`machine.py` decides (pure), `server.py` does the IO, `runner.py` says what computing is;
`torch/` computes with PyTorch.
"""
