"""Which neurons of an MLP matter, and an MLP without the others.

Removing a neuron whole (its rows and columns) makes every device faster, unlike zeros here and
there. 2:4 sparsity, which some GPUs compute faster, is here too.

Shapes: O outputs, I inputs (of the down projection: the MLP's neurons), K kept ones.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from partwise.errors import CompressionError

RIDGE = 0.01
"""Added to the diagonal of the moments in parts of its mean: neurons are nearly collinear."""


def rank_neurons(
    down_OI: NDArray[np.float32], moments_II: NDArray[np.float64]
) -> NDArray[np.float64]:
    """How much each neuron adds to the MLP's output: the root mean square of its activation
    times the length of its column in the down projection."""
    lengths: NDArray[np.float64] = np.linalg.norm(down_OI.astype(np.float64), axis=0)
    return np.sqrt(np.diagonal(moments_II)) * lengths


def choose_kept(ranks: NDArray[np.float64], mlp_sparsity: float, granule: int) -> NDArray[np.intp]:
    """The neurons that stay, ascending: all but the share ``mlp_sparsity`` that adds least, their
    number rounded up to a multiple of ``granule``.

    Raises:
        CompressionError: fewer neurons than a granule.
    """
    num_neurons = len(ranks)
    wanted = round((1 - mlp_sparsity) * num_neurons)
    count = -(-wanted // granule) * granule
    if count > num_neurons:
        raise CompressionError(
            f"{wanted} of {num_neurons} MLP units cannot be kept in blocks of {granule}: give a"
            " smaller block, or a sparsity that keeps a multiple of it"
        )
    return np.sort(np.argsort(-ranks, kind="stable")[:count])


def correct_down(
    down_OI: NDArray[np.float32], moments_II: NDArray[np.float64], kept: NDArray[np.intp]
) -> NDArray[np.float32]:
    """The down projection (O, K) of the kept neurons that comes closest to what all of them
    gave: least squares on the calibration activations, held to the old weights by a ridge."""
    damped = moments_II + RIDGE * np.diagonal(moments_II).mean() * np.eye(len(moments_II))
    among, rest = damped[np.ix_(kept, kept)], damped[:, kept]
    solved = np.linalg.solve(among, rest.T @ down_OI.T.astype(np.float64))
    return np.ascontiguousarray(solved.T, dtype=np.float32)


def thin_out(
    weight_OI: NDArray[np.float32], moments_II: NDArray[np.float64]
) -> NDArray[np.float32]:
    """The matrix with two of four consecutive inputs of each output zero: those that add least.

    Source of the rank: Sun et al., "A Simple and Effective Pruning Approach for Large Language
    Models" (Wanda, 2023).

    Raises:
        CompressionError: the inputs are no multiple of four.
    """
    outputs, inputs = weight_OI.shape
    if inputs % 4:
        raise CompressionError(
            f"2:4 sparsity needs inputs in fours, a matrix has {inputs}: remove MLP units instead"
        )
    ranks = np.abs(weight_OI) * np.sqrt(np.diagonal(moments_II)).astype(np.float32)
    order = np.argsort(-ranks.reshape(outputs, -1, 4), axis=-1, kind="stable")
    groups = weight_OI.reshape(outputs, -1, 4).copy()
    np.put_along_axis(groups, order[..., 2:], 0, axis=-1)
    return groups.reshape(outputs, inputs)
