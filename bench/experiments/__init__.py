"""Questions answered once, with their tables: each has a page in docs/experiments/."""
