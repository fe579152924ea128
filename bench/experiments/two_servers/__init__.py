"""One server against two over slow and long links, measured and predicted; `latency.py` runs it."""
