"""Lagrange polynomials through the outputs of a network, and their quadrature.

    l_j(u) = prod_{i != j} (u - u_i) / (u_j - u_i)

Nodes that are known only at run time are computed with JAX; weights that are known beforehand are
computed with NumPy in float64. The argument `xp` is one of the two modules.
"""

import numpy as np


def gauss(points: int) -> tuple[np.ndarray, np.ndarray]:
    """Points and weights of Gauss-Legendre on [0, 1], exact to the degree `2 points - 1`."""
    u, w = np.polynomial.legendre.leggauss(points)
    return 0.5 * (u + 1.0), 0.5 * w


def lagrange(at, nodes, there, xp):
    """The polynomials `l_j` at q points, `(q, k, ...)`.

    Args:
        at: `(q, ...)`, the points.
        nodes: `(k, ...)`.
        there: `(k, ...)`, which nodes exist. The other nodes are left out of every polynomial, and
            their own polynomials have no meaning.
        xp: `numpy` or `jax.numpy`.
    """
    k = len(nodes)
    others = ~np.eye(k, dtype=bool).reshape(k, k, *(1,) * (nodes.ndim - 1))
    factors = there[None] & others
    gaps = xp.where(factors, nodes[:, None] - nodes[None], 1.0)
    ratios = (at[:, None] - nodes[None])[:, None] / gaps[None]
    return xp.prod(xp.where(factors[None], ratios, 1.0), axis=2)
