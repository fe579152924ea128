"""Where a model can run: hosts, the servers on them, the links between them.

Pure: it measures nothing and connects to nothing. `description.py` holds the values,
`toml_file.py` their file, `presets.py` well-known ones.
"""

from __future__ import annotations

from partwise.cluster.description import (
    Cluster,
    Curve,
    Host,
    LinkSpeed,
    Rates,
    Server,
    Streaming,
)

__all__ = ["Cluster", "Curve", "Host", "LinkSpeed", "Rates", "Server", "Streaming"]
