"""Compression: smaller numbers, fewer neurons, and what each step costs in accuracy."""
