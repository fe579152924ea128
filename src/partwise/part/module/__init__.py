"""A part of a captured module: its operations computed by torch, and what it pushes to others."""
