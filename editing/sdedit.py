"""Editing a given image: noise it part of the way, and sample down again (Meng et al. 2022,
SDEdit, arXiv 2108.01073, algorithms 1 and 2).

    x_t = a(t) image + c(t) z,    then any sampler from t to eps

The larger t, the more of the image is drawn anew: details weaker than the noise at t come from the
model, stronger features from the image. With a mask, `impute` keeps a part of the image.

`flow_edit` works without noise (Su et al. 2023, dual diffusion implicit bridges, arXiv 2203.08382):
the flow ODE of one prediction function takes the image up to t, and that of another one, for
example a guided one, takes it down. With the same function both ways the result is the image, up to
the error of the steps.
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
        sampler: the sampler on the way down from ts[0]; one of an SDE as published.
        ts: falling times; the first one is the time to go up to, see `edit_grid`.
        keep: 1 where the image is kept, 0 where it is edited, see `operators.mask`. Kept values are
            noised with the state at each step, and equal the image at the end.
        denoise: end with the conditional mean, for one more evaluation.

    Raises:
        ValueError: for a law that is not affine, or a mask that does not fit the image.
    """
    check_path(path)
    operator = None if keep is None else masking(image.shape[1:], keep)
    drawing, own = split(key, 2)
    a, c = (expand(v, image) for v in path.coeffs(ts[0]))
    x = a * image + c * normal_like(drawing, image)
    if operator is None:
        return sample(own, predict, sampler, x, ts, denoise=denoise)
    known = operator.forward(image)
    # `impute` adds `a y` to its start, so x must not contain the kept part yet.
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
    """Noise part of the way, and down by the configured predictor and corrector.

    Args:
        strength: the time or noise level to go up to, in the given unit.
        unit: of the strength: "part" of the law's t1, or "sigma", the noise level c / a.
        keep: the kept region, as `guidance.mask.keep`; overwritten in each step unless `content`.
        content: weight of the energy |x0 - image|^2 / 2 in the kept region.
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
    """Take `image` `(B, ...)` up the flow of `predict` to ts[0], and down the flow of `edited`.

    Args:
        ts: falling times, see `edit_grid`.
        solver: a sampler of the flow ODE without noise and memory, in both directions; Heun's by
            default. For a solver of odd order p the error of a round trip has order p, for one of
            even order p + 1: 1 for DDIM, 3 for Heun's.

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
        ValueError: for a law that is not affine, another unit, or a strength beyond the law's t1.
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
