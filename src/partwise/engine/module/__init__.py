"""The coordinator's side of a captured module: it gives inputs to parts and collects results."""
