"""The layer-wise seed's claims, worked out by the planner; `layerwise_seed.py` runs it."""
