"""The version of partwise. Nothing else: packaging reads this file without importing it."""

__version__ = "0.1.0"
