"""Editing from a given image: noise it part of the way, and come down again (Meng et al. 2022,
SDEdit, arXiv 2108.01073, algorithms 1 and 2).

    x_t = a(t) image + c(t) z,    then any sampler from t to eps

The later t, the more of the image is drawn anew: what lies below the noise at t is the model's, and
what lies above it the image's. With a mask the rest of the image is kept, by `impute`.

Or without noise (Su et al. 2023, dual diffusion implicit bridges, arXiv 2203.08382): the flow ODE
of one prediction function takes the image up to t and that of another one, say a guided one, down.
With the same function both ways the result is the image, up to the error of the steps.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from editing.base import Edit, Setting, check_options, faithful, kept
from guidance.base import check_path
from operators import mask as masking
from restoration.impute import fill, impute
from samplers import Sampler, SampleResult, chain, heun, make_grid, sample
from sde_lib import AffinePath, expand, normal_like, split
from sde_lib.prediction import PredictFn

UNITS = ("part", "sigma")


def sdedit(
    key: Array,
    path: AffinePath,
    predict: PredictFn,
    sampler: Sampler,
    image: Array,
    ts: Array,
    *,
    keep: np.ndarray | None = None,
    denoise: bool = False,
) -> SampleResult:
    """Edits of `image` `(B, ...)`.

    Args:
        key: one key, or one per image.
        sampler: from ts[0] down; of an SDE as published.
        ts: falling times, the first of which says how far up: see `edit_grid`.
        keep: 1 where the image is kept, 0 where it is edited, see `operators.mask`; what is kept
            is noised with the state at each step, and is the image's own at the end.
        denoise: end with the conditional mean, one more evaluation.

    Raises:
        ValueError: for a law that is not affine, or a mask that is not one of the image.
    """
    check_path(path)
    operator = None if keep is None else masking(image.shape[1:], keep)
    drawing, own = split(key, 2)
    a, c = (expand(v, image) for v in path.coeffs(ts[0]))
    x = a * image + c * normal_like(drawing, image)
    if operator is None:
        return sample(own, predict, sampler, x, ts, denoise=denoise)
    known = operator.forward(image)
    # `impute` enters by a draw of the prior, to which it adds `a y` itself.
    x = x - a * operator.adjoint(known)
    result = sample(own, predict, impute(path, operator, known, sampler), x, ts, denoise=denoise)
    return result._replace(x=fill(operator, known, result.x))


def by_noise(
    setting: Setting,
    strength: float = 0.5,
    unit: str = "part",
    keep: str = "",
    content: float = 0.0,
) -> Edit:
    """Noised part of the way, and down by the configured predictor and corrector.

    Args:
        strength: how far up.
        unit: of the strength: "part" of the law's t1, or "sigma", the noise level c / a.
        keep: what stays, overwritten in each step, or by `content`: as `guidance.mask.keep`.
        content: weight of the energy |x0 - image|^2 / 2 where the image stays.
    """
    check_options(strength, content)
    path, stays, method = setting.path, kept(setting, keep), chain(*setting.parts)
    ts = edit_grid(path, strength, unit, setting.steps, setting.grid, setting.eps)
    known = None if content else stays

    def run(key: Array, predict: PredictFn, guided: PredictFn, image: Array) -> SampleResult:
        del predict
        guided = faithful(path, content, stays, image)(guided)
        return sdedit(key, path, guided, method, image, ts, keep=known, denoise=setting.denoise)

    return Edit(run, stays)


def flow_edit(
    path: AffinePath,
    predict: PredictFn,
    edited: PredictFn,
    image: Array,
    ts: Array,
    *,
    solver: Sampler | None = None,
) -> SampleResult:
    """`image` `(B, ...)` up the flow of `predict` to ts[0], and down that of `edited`.

    Args:
        ts: falling times, see `edit_grid`.
        solver: a sampler of the flow ODE without noise and memory, in both directions; Heun's by
            default. The error of a round trip is of one order above an even order of the solver,
            and of an odd order itself: 3 for Heun's, 1 for DDIM.

    Raises:
        ValueError: for a law that is not affine.
    """
    check_path(path)
    solver = heun(path) if solver is None else solver
    unused = jax.random.key(0)
    up = sample(unused, predict, solver, image, ts[::-1])
    down = sample(unused, edited, solver, up.x, ts)
    return down._replace(nfe=up.nfe + down.nfe)


def edit_time(path: AffinePath, strength: float, unit: str = "part") -> Array:
    """The time t of a strength: `t = strength t1` for the unit "part", and `c / a = strength`, the
    noise level in the units of the data, for "sigma".

    Raises:
        ValueError: for a law that is not affine, another unit, or a time that is not within the
            law's.
    """
    check_path(path)
    if unit not in UNITS:
        raise ValueError(f"unit is {unit!r}; it must be one of {', '.join(UNITS)}.")
    top = float(path.sigma(jnp.asarray(path.t1, jnp.result_type(float))))
    most = 1.0 if unit == "part" else top * (1.0 + 1e-5)
    if not 0.0 < strength <= most:
        raise ValueError(
            f"strength is {strength}; in units of {unit!r} it must be above 0 and at most "
            f"{1.0 if unit == 'part' else top:.4g}."
        )
    if unit == "part":
        return jnp.asarray(strength * path.t1)
    level = jnp.asarray(strength, jnp.result_type(float))
    return jnp.minimum(path.t_of_sigma(level), path.t1)


def edit_grid(
    path: AffinePath,
    strength: float,
    unit: str = "part",
    steps: int = 50,
    grid: str = "uniform",
    eps: float | None = None,
) -> Array:
    """Times falling from that of the strength, see `edit_time`, to eps, the law's `t0` by default,
    by the grid of that name; the numbers must be known while tracing.

    Raises:
        ValueError: as `edit_time`, or for a grid that cannot be.
    """
    with jax.ensure_compile_time_eval():
        top = float(edit_time(path, strength, unit))
        eps = path.t0 if eps is None else eps
        return make_grid(grid, dataclasses.replace(path, t1=top), steps, eps)
