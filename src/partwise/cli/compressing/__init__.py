"""The work of `partwise compress`: its steps, and its report."""
