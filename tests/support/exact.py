"""The slowest run by an exact solver (HiGHS through SciPy), from costs alone."""

from __future__ import annotations

import math

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, linprog, milp
from scipy.sparse import csr_array

from support.planning import Instance

Run = tuple[int, int, int]
"""A server and the layers start:stop that it holds; none: it passes the position on."""


def list_runs(instance: Instance) -> list[Run]:
    num_layers, num_servers = len(instance.works), len(instance.speeds)
    return [
        (s, a, b)
        for s in range(num_servers)
        for a in range(num_layers + 1)
        for b in range(a, num_layers + 1)
        if a == b or instance.fits(s, a, b)
    ]


def balance_flow(instance: Instance, runs: list[Run]) -> tuple[csr_array, np.ndarray]:
    """One unit flows from (server 0, layer 0) to (no server, no layer left) through ``runs``."""
    num_layers, num_servers = len(instance.works), len(instance.speeds)
    width = num_layers + 1
    rows = [s * width + a for s, a, _ in runs] + [(s + 1) * width + b for s, _, b in runs]
    columns = [*range(len(runs)), *range(len(runs))]
    values = [1.0] * len(runs) + [-1.0] * len(runs)
    supply = np.zeros((num_servers + 1) * width)
    supply[0], supply[-1] = 1, -1
    return csr_array((values, (rows, columns)), shape=(len(supply), len(runs))), supply


def has_runs_within(instance: Instance, limit_s: float) -> bool:
    """Whether the servers in their order hold all layers in runs of up to ``limit_s`` each.

    A flow of one unit: where it exists, a path does, for its corners are whole.
    """
    costs = instance.costs
    runs = [run for run in list_runs(instance) if costs.seconds(*run) <= limit_s]
    flow, supply = balance_flow(instance, runs)
    result = linprog(np.zeros(len(runs)), A_eq=flow, b_eq=supply, method="highs")
    assert result.status in {0, 2}, result.message
    return bool(result.status == 0)


def solve_slowest(instance: Instance) -> float:
    """The least slowest run, by integer programming; infinite where nothing fits."""
    costs, runs = instance.costs, list_runs(instance)
    flow, supply = balance_flow(instance, runs)
    padded = csr_array(np.pad(flow.toarray(), ((0, 0), (0, 1))))
    slowest = np.zeros((len(instance.speeds), len(runs) + 1))
    slowest[:, -1] = -1
    for column, (s, a, b) in enumerate(runs):
        slowest[s, column] = costs.seconds(s, a, b)
    is_choice = np.ones(len(runs) + 1)
    is_choice[-1] = 0
    result = milp(
        1 - is_choice,
        constraints=[
            LinearConstraint(padded, supply, supply),
            LinearConstraint(slowest, -np.inf, 0),
        ],
        integrality=is_choice,
        bounds=Bounds(0, np.append(np.ones(len(runs)), np.inf)),
        options={"mip_rel_gap": 0.0},
    )
    if result.status == 2:
        return math.inf
    assert result.success, result.message
    return float(result.fun)
