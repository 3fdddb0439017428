"""Methods that are exact in a limit: ensembles, imputation, and guidance by an exact classifier.

The limits are many particles for ensembles, many steps and correctors for imputation, and many
steps for the classifier. Problems and scores are those of `problem.py`: the distance of the means
in posterior standard deviations, and the distance of the covariances relative to the posterior's.
For ensembles the script reports the median over runs, because a few runs are far out.
"""

from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from benchmarks.guidance.problem import (
    LAW,
    NOISE,
    Problem,
    Score,
    draw,
    gaussian,
    predict_fn,
    problems,
    score,
    starts_of,
)
from exact import Mixture, mixture_moments, mixture_posterior, mixture_predict
from guidance import classifier_guidance
from restoration import ensemble, fill, gaussian_misfit, impute, repaint, weighted_moments
from samplers import CORRECTORS, PREDICTORS, make_grid, sample, velocity_ab
from sde_lib import EDM, VE, VP, Flow, SubVP

PARTICLES, RUNS, ENSEMBLE_STEPS = (250, 1000, 4000), 15, 200
# (steps, Langevin corrections after each step, how often a block of steps is repeated)
IMPUTATIONS = ((30, 0, 1), (120, 0, 1), (480, 0, 1), (30, 4, 1), (120, 4, 1), (480, 4, 1))
IMPUTATIONS += ((30, 0, 10), (120, 0, 10))
DRAWS = 2048
CLASS_STEPS = (10, 20, 50)
LAWS = {"VP": VP(), "sub-VP": SubVP(), "VE": VE(), "EDM": EDM(), "flow": Flow()}


def ensembles() -> Iterator[dict]:
    """Yield a row for every problem and number of particles, on a grid even in log-SNR."""
    ts = make_grid("uniform_lam", LAW, ENSEMBLE_STEPS, LAW.t0)
    for problem in problems():
        y = jnp.asarray(problem.y).reshape(problem.operator.shape_out)
        misfit, predict = gaussian_misfit(problem.operator, y, NOISE), predict_fn(problem)
        for particles in PARTICLES:
            run = ensemble(LAW, misfit, ts, particles)

            @jax.jit
            def call(key: Array, run=run, predict=predict):
                found = run(key, predict)
                return *weighted_moments(found), found.resamplings, found.nfe

            runs = [jax.device_get(call(jax.random.key(i))) for i in range(RUNS)]
            scores = [distance(problem, mean, cov) for mean, cov, *_ in runs]
            yield {
                **row(problem, f"ensemble of {particles}", scores),
                "particles": particles,
                "nfe": int(runs[0][-1]),
                "resamplings": float(np.mean([found[2] for found in runs])),
            }


def imputations() -> Iterator[dict]:
    """Yield rows of imputation for the masks, measured without noise."""
    key = jax.random.key(0)
    for problem in problems():
        if problem.operator.name != "mask":
            continue
        exact = noiseless(problem)
        operator, y = problem.operator, jnp.asarray(exact.y)
        for steps, corrections, repeats in IMPUTATIONS:
            langevin = CORRECTORS["langevin"](LAW, 0.16, 1, "example", "end")
            parts = (PREDICTORS["ancestral"](LAW), *[langevin] * corrections)
            method = impute(LAW, operator, y, *parts)
            ts, predict = make_grid("uniform_lam", LAW, steps, LAW.t0), predict_fn(problem)

            def run(key: Array, x: Array, ts=ts, method=method, predict=predict, repeats=repeats):
                if repeats > 1:
                    return repaint(key, LAW, predict, method, x, ts, repeats=repeats, denoise=True)
                return sample(key, predict, method, x, ts, denoise=True)

            x = LAW.prior_sample(key, (DRAWS, *problem.shape)).astype(float)
            result = jax.jit(run)(jax.random.fold_in(key, 1), x)
            ends = np.asarray(fill(operator, y, result.x)).reshape(DRAWS, -1)
            name = f"impute, {steps} steps, {corrections} corrections" + (
                f", {repeats} times" if repeats > 1 else ""
            )
            yield {
                **row(problem, name, [score(exact, ends, affine=False)]),
                "steps": steps,
                "corrections": corrections,
                "repeats": repeats,
                "nfe": int(result.nfe),
            }


def noiseless(problem: Problem) -> Problem:
    """Return the same problem with an exact measurement; noise of 1e-6 replaces zero noise."""
    y = problem.A @ draw(problem.data, np.random.default_rng(1), 1)[0]
    known = mixture_posterior(problem.data, problem.operator, y, 1e-6)
    mean, cov = mixture_moments(known)
    return problem._replace(y=y, mean=mean, cov=cov)


def classes() -> Iterator[dict]:
    """Yield rows of sampling one mixture component with the exact classifier.

    The guided sampler is an affine map, so these rows have no sampling error. `score_error` is the
    largest difference between the guided noise prediction and the component's own, relative to the
    size of the latter, over states at four times and all components.
    """
    mixture = next(problem for problem in problems() if not problem.gaussian)
    data, label = mixture.data, int(np.argmax(mixture.data.weights))
    own = gaussian(data.means[label], data.covs[label])
    mean, cov = mixture_moments(own)
    exact = mixture._replace(data=own, mean=mean, cov=cov)
    for name, law in LAWS.items():
        error = score_error(law, data)
        guided = classifier_guidance(law, logits_fn(law, data), jnp.array(label), 1.0)(
            mixture_predict(law, data)
        )
        for steps in CLASS_STEPS if law == LAWS["EDM"] else ():
            ts, method = make_grid("karras", LAW, steps, LAW.t0), velocity_ab(LAW, 4, 1.0)
            starts = jnp.asarray(starts_of(exact, affine=True)).reshape(-1, *exact.shape)
            result = jax.jit(sample, static_argnums=(1, 2), static_argnames="denoise")(
                jax.random.key(0), guided, method, starts, ts, denoise=True
            )
            ends = np.asarray(result.x).reshape(len(starts), -1)
            found = [score(exact, ends, affine=True)]
            yield {
                **row(exact, f"classifier, {name}, {steps} steps", found),
                "operator": "class",
                "nfe": int(result.nfe),
                "score_error": error,
            }
        if law != LAWS["EDM"]:
            yield {"problem": "mixture 16", "operator": "class", "method": f"classifier, {name}",
                   "score_error": error}  # fmt: skip


def score_error(law, data: Mixture) -> float:
    components = [gaussian(mean, cov) for mean, cov in zip(data.means, data.covs)]
    logits, plain = logits_fn(law, data), mixture_predict(law, data)

    @jax.jit
    def both(x: Array, t: Array) -> tuple[Array, Array]:
        """Return eps (K, n, D) at states (K, n, D): guided to each component, and its own."""
        guide = lambda k, x: classifier_guidance(law, logits, k, 1.0)(plain)(x, t).eps
        own = [mixture_predict(law, one)(x[k], t).eps for k, one in enumerate(components)]
        return jax.vmap(guide)(jnp.arange(len(x)), x), jnp.stack(own)

    rng, worst = np.random.default_rng(0), 0.0
    for t in (law.t0, 0.1 * law.t1, 0.5 * law.t1, law.t1):
        a, c = (float(v) for v in law.coeffs(jnp.asarray(t)))
        x0 = np.stack([rng.multivariate_normal(*pair, 8) for pair in zip(data.means, data.covs)])
        found, own = both(jnp.asarray(a * x0 + c * rng.standard_normal(x0.shape)), jnp.asarray(t))
        size = jnp.max(jnp.abs(own), axis=(1, 2), keepdims=True)
        worst = max(worst, float(jnp.max(jnp.abs(found - own) / size)))
    return worst


def logits_fn(law, data: Mixture) -> Callable[[Array, Array], Array]:
    """Return the exact classifier of noisy states, `log w_k + log N(x; a m_k, a^2 C_k + c^2 I)`.

    The logits lack a constant that is the same for all k.
    """
    L, U = np.linalg.eigh(data.covs)

    def logits(x: Array, t: Array) -> Array:
        a, c = law.coeffs(jnp.broadcast_to(t, x.shape[:1]))
        a, c = a[:, None, None], c[:, None, None]
        v = a**2 * L[None] + c**2
        d = jnp.einsum("bkd,kde->bke", x.reshape(len(x), 1, -1) - a * data.means[None], U)
        return np.log(data.weights) - 0.5 * jnp.sum(d**2 / v + jnp.log(v), axis=-1)

    return logits


def distance(problem: Problem, mean: np.ndarray, cov: np.ndarray) -> Score:
    off = np.linalg.norm(mean - problem.mean) / np.sqrt(np.trace(problem.cov))
    return Score(
        float(off), float(np.linalg.norm(cov - problem.cov) / np.linalg.norm(problem.cov)), 0.0, 0.0
    )


def row(problem: Problem, method: str, scores: list[Score]) -> dict:
    return {
        "problem": problem.name,
        "operator": problem.operator.name,
        "method": method,
        "error_mean": float(np.median([s.mean for s in scores])),
        "error_cov": float(np.median([s.cov for s in scores])),
        "error_mean_se": scores[0].mean_se,
        "error_cov_se": scores[0].cov_se,
    }


PARTS = {"ensemble": ensembles, "impute": imputations, "classes": classes}


def show(rows: list[dict]) -> None:
    """Print a line for each method, a column for each problem, and the slopes of the ensembles."""
    cases = list(dict.fromkeys((found["problem"], found["operator"]) for found in rows))
    print(" | ".join(["method", "nfe", *(f"{problem}, {name}" for problem, name in cases)]))
    for method in dict.fromkeys(found["method"] for found in rows):
        these = {(r["problem"], r["operator"]): r for r in rows if r["method"] == method}
        cells = [cell(these.get(case)) for case in cases]
        nfe = next(iter(these.values())).get("nfe", "")
        print(" | ".join([method, str(nfe), *cells]))
    for case in cases:
        sizes = [r for r in rows if (r["problem"], r["operator"]) == case and "particles" in r]
        if sizes:
            logs = np.log([[r["particles"], r["error_mean"], r["error_cov"]] for r in sizes]).T
            slopes = [np.polyfit(logs[0], line, 1)[0] for line in logs[1:]]
            print(f"{case[0]}, {case[1]}: slope in particles {slopes[0]:.2f} / {slopes[1]:.2f}")


def cell(found: dict | None) -> str:
    if found is None:
        return ""
    if "error_mean" not in found:
        return f"score {found['score_error']:.1e}"
    text = f"{found['error_mean']:.2g} / {found['error_cov']:.2g}"
    return text + (f", score {found['score_error']:.1e}" if "score_error" in found else "")
