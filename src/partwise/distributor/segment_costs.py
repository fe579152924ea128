"""The cost of any run of layers on any server, from prefix sums."""

from __future__ import annotations

from collections.abc import Sequence

from partwise.cluster.description import Cluster
from partwise.distributor.workload import Workload
from partwise.model.description import Model


class SegmentCosts:
    """Seconds and bytes of layers ``start:stop`` held whole by one server.

    ``server_index`` counts ``servers`` (default: those of the cluster, in its order), all of
    which are taken to be used.
    """

    def __init__(
        self,
        model: Model,
        cluster: Cluster,
        workload: Workload,
        servers: Sequence[str] | None = None,
    ) -> None:
        raise NotImplementedError

    def seconds(self, server_index: int, start: int, stop: int) -> float:
        """Seconds of one pass; never less for more layers, 0 for none."""
        raise NotImplementedError

    def bytes(self, start: int, stop: int) -> int:
        """Memory in bytes; never less for more layers, 0 for none."""
        raise NotImplementedError

    def max_stop(self, server_index: int, start: int, seconds_limit: float) -> int:
        """The furthest stop with ``seconds <= seconds_limit`` and ``bytes`` within the server's
        memory; ``start`` where not even one layer is."""
        raise NotImplementedError
