"""What is the order of every deterministic method, and are known tables of errors reproduced?

    python -m benchmarks.samplers.orders [orders] [mixture] [bdia] [--json OUT]

`orders` prints the slope `log2(e_N / e_2N)` and the order of the literature. The error e is the RMS
distance to the closed-form flow of correlated Gaussian data (`exact/gaussian.py`), with N = 128
steps even in log-SNR. `mixture` prints errors on M1, 0.4 N(-1.2, 0.35^2) + 0.6 N(0.9, 0.35^2),
beside those of an independent computation. `bdia` prints the error of a round trip (arXiv
2307.10829).
"""

import argparse
import json
from functools import lru_cache, partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import samplers
from exact.gaussian import GaussianMoments, gaussian_flow, gaussian_predict
from samplers import Sampler, State
from samplers.exponential.unified import unified
from sde_lib import EDM, VE, VP, Flow, SubVP
from sde_lib.prediction import prediction_of
from search.known import multistep, single

KEY = jax.random.key(0)  # nothing is drawn from it
LAWS = {"VP": VP(), "sub-VP": SubVP(), "VE": VE(), "EDM": EDM(), "flow": Flow(t1=0.95)}
SIZES = (128, 256)
EXACT = 4  # first states that are set to the exact flow, for the last column of `orders`
FORMS = ("noise", "data")
_L, _U = np.linalg.eigh(np.array([[0.5, 0.2], [0.2, 0.3]]))
DATA = GaussianMoments(np.array([0.4, -0.7]), _U, _L)


def _each(name: str, method, orders) -> dict:
    """Return the entries of `METHODS` for both forms of each order."""
    return {
        f"{name} {k} {form}": (partial(method, order=k, form=form), k)
        for k in orders
        for form in FORMS
    }


# `name: (path -> Sampler, order of the literature)`.
METHODS = {
    "ddim": (samplers.ddim, 1),
    "heun": (samplers.heun, 2),
    "edm": (samplers.edm, 2),
    "euler_maruyama, flow ODE": (partial(samplers.euler_maruyama, probability_flow=True), 1),
    "reverse_diffusion, flow ODE": (partial(samplers.reverse_diffusion, probability_flow=True), 1),
    **_each("dpm_solver", samplers.dpm_solver, (2, 3)),
    **_each("dpm_multistep", samplers.dpm_multistep, (2, 3)),
    **_each("adams_bashforth", samplers.adams_bashforth, (2, 3, 4)),
    # UniC raises the order of the predictor by one.
    "unipc 1 noise b1": (partial(samplers.unipc, order=1, form="noise", variant="b1"), 2),
    "unipc 2 data b2": (partial(samplers.unipc, order=2), 3),
    "unipc 3 data b2": (partial(samplers.unipc, order=3), 4),
    **{f"velocity_ab {k}": (partial(samplers.velocity_ab, order=k), k) for k in (2, 3, 4)},
    "bdia 0.5": (partial(samplers.bdia, gamma=0.5, frame="unit"), 1),
    "bdia 1": (partial(samplers.bdia, gamma=1.0, frame="unit"), 2),
    "restoration_degradation 0.5": (partial(samplers.restoration_degradation, look_back=0.5), 1),
    "restoration_degradation 1": (samplers.restoration_degradation, 1),
    "lml 0.3, noise, of ddim": (lambda path: samplers.lml(path, samplers.ddim(path), 0.3), 1),
}
# Methods as schedules: `name: (nodes lam -> Schedule, order of the literature)`.
SCHEDULES = {
    "unified, dpm 2 data": (partial(multistep, order=2, form="data", kind="dpm"), 2),
    "unified, single 3 noise": (partial(single, order=3), 3),
}
NOTE = """
*  off by more than 0.25. The last column is the slope on M1 (VP, 192 to 384 steps) with the first
   four states taken from the flow; there the stated order comes out, but for dpm_multistep 3.
   adams_bashforth, velocity_ab: the first step is of order 1; its error O(h^2), made once, stays.
   So slopes tend to 2, the later the less the output changes at the noisy end: VE and flow begin
   nearest to the data. adams_bashforth 3 is of order 4 on Gaussian data: eps of a mode is a
   multiple of g = xi / sqrt(L + xi^2), and its leading error of the integral of g D^3 g over lam,
   which is g D^2 g - (D g)^2 / 2 between the ends: zero.
   dpm_multistep 3: the published weight has half the second derivative, which leaves order 2."""

NFES = (24, 48, 96, 192, 384)
# RMS errors by an independent computation: name, method, evaluations per step, errors at `NFES`.
REFERENCE = [
    ("DDIM", "ddim", 1, (6.6e-2, 3.3e-2, 1.7e-2, 8.4e-3, 4.2e-3)),
    ("DPM-2S", "dpm_solver 2 noise", 2, (2.4e-2, 5.4e-3, 1.3e-3, 3.2e-4, 7.9e-5)),
    ("++2S", "dpm_solver 2 data", 2, (2.4e-2, 7.1e-3, 2.0e-3, 5.3e-4, 1.4e-4)),
    ("DPM-3S", "dpm_solver 3 noise", 3, (8.6e-3, 5.0e-4, 7.2e-5, 1.0e-5, 1.3e-6)),
    ("2M", "dpm_multistep 2 noise", 1, (1.1e-2, 3.2e-3, 8.9e-4, 2.3e-4, 5.9e-5)),
    ("++2M", "dpm_multistep 2 data", 1, (8.7e-3, 2.3e-3, 6.0e-4, 1.5e-4, 3.8e-5)),
    ("3M", "dpm_multistep 3 noise", 1, (6.3e-3, 1.4e-3, 3.0e-4, 6.7e-5, 1.6e-5)),
    ("++3M", "dpm_multistep 3 data", 1, (3.1e-3, 6.0e-4, 1.3e-4, 3.2e-5, 7.9e-6)),
]
GAMMAS = (1.0, 0.9, 0.5)


def slope(errors) -> float:
    return float(np.log2(errors[0] / errors[1]))


def rms(ends, truth) -> np.ndarray:
    """Return the root mean square error of each of the runs `(S, B, D)`, `(S,)`."""
    return np.sqrt(np.mean((np.asarray(ends) - np.asarray(truth)[None]) ** 2, axis=(1, 2)))


def start_of(law):
    """Return 64 starts at the noisy end, eps, and the ends of the exact flow at eps."""
    x = law.prior_std() * jnp.asarray(np.random.default_rng(0).standard_normal((64, 2)))
    eps = max(1e-3, law.t0)
    return x, eps, gaussian_flow(law, DATA, x, law.t1, eps)


def errors_of(law, sampler, predict, x, grids, truth) -> np.ndarray:
    """Return the RMS errors on several grids, by one compiled run.

    Short grids are padded with steps of length zero, which do not change x.
    """
    length = max(map(len, grids))
    ts = jnp.stack([jnp.pad(grid, (0, length - len(grid)), mode="edge") for grid in grids])
    run = lambda ts: samplers.sample(KEY, predict, sampler, x, ts).x
    return rms(jax.jit(jax.vmap(run))(ts), truth)


def begun_exactly(sampler: Sampler, flow) -> Sampler:
    """Return the sampler with exact states after the first `EXACT` steps.

    The state at time s is replaced by `flow(x, s)` with the start x, so that the sampler's memory
    is that of a run without error.
    """

    def init(x, t):
        return State(x, (sampler.init(x, t).memory, x, 0))

    def step(key, predict, state, span):
        memory, x, done = state.memory
        out = sampler.step(key, predict, State(state.x, memory), span)
        return State(jnp.where(done < EXACT, flow(x, span.s), out.x), (out.memory, x, done + 1))

    return Sampler(init, step, sampler.nfe, sampler.enter)


def begun_slope(make) -> float:
    """Return the slope on M1 from 192 to 384 steps, with the first states exact."""
    law, eps, predict, x, truth = mixture_problem(200)
    exact = lambda x, s: runge_kutta(law, predict, x, s, 12)
    grids = [samplers.make_grid("uniform_lam", law, n, eps) for n in (192, 384)]
    return slope(errors_of(law, begun_exactly(make(law), exact), predict, x, grids, truth))


def orders() -> list[dict]:
    print(f"{'method':<29}{'stated':>7}" + "".join(f"{v:>9}" for v in LAWS) + f"{'M1, begun':>11}")
    rows = []
    for name, (make, stated) in {**METHODS, **SCHEDULES}.items():
        found = {v: slope(gaussian_errors(name, make, law)) for v, law in LAWS.items()}
        cells = [f"{v:.2f}" + ("*" if abs(v - stated) > 0.25 else " ") for v in found.values()]
        if remembers := stated > 2 and name in METHODS and "dpm_solver" not in name:
            found["M1"] = begun_slope(make)
        last = f"{found['M1']:>10.2f}" if remembers else ""
        print(f"{name:<29}{stated:>7}" + "".join(f"{v:>9}" for v in cells) + last, flush=True)
        rows.append({"method": name, "stated": stated, **found})
    print(NOTE)
    return rows


def gaussian_errors(name: str, make, law) -> np.ndarray:
    """Return the errors at N and 2N steps.

    `make` takes the nodes for a method of `SCHEDULES`, and the law for the other methods.
    """
    (x, eps, truth), predict = start_of(law), gaussian_predict(law, DATA)
    if name not in SCHEDULES:
        grids = [samplers.make_grid("uniform_lam", law, n, eps) for n in SIZES]
        return errors_of(law, make(law), predict, x, grids, truth)
    first, last = (float(law.lam(jnp.asarray(t))) for t in (law.t1, eps))
    runs = [unified(law, make(np.linspace(first, last, n + 1)), eps) for n in SIZES]
    ends = [jax.jit(lambda x, run=run: run(KEY, predict, x).x)(x) for run in runs]
    return rms(jnp.stack(ends), truth)


def m1(law):
    """Return the exact prediction function of M1.

    With `v = a^2 s^2 + c^2` and `d = x - a m_j`, component j gives x0 = `m_j + a s^2 d / v` and
    eps = `c d / v`. Both are averaged with the posterior probabilities of the components.
    """
    weights, means, std = np.array([[0.4, 0.6]]), np.array([[-1.2, 0.9]]), 0.35

    def predict(x, t):
        a, c = (jnp.broadcast_to(part, x.shape[:1])[:, None] for part in law.coeffs(t))
        v, d = a**2 * std**2 + c**2, x - a * means.astype(x.dtype)
        share = jax.nn.softmax(np.log(weights).astype(x.dtype) - d**2 / (2.0 * v), axis=1)
        mean = lambda part: jnp.sum(share * part, axis=1, keepdims=True)
        x0 = mean(means.astype(x.dtype) + a * std**2 / v * d)
        return prediction_of(law, x, t, x0, mean(c / v * d))

    return predict


def runge_kutta(law, predict, x, eps, steps):
    """Solve `dy / dlam = -exp(-lam) eps` with `y = x / a` from t1 to eps by classical RK4."""
    first, last = (law.lam(jnp.asarray(t)) for t in (law.t1, eps))
    h = (last - first) / steps

    def rate(lam, y):
        t = law.t_of_lam(lam)
        return -jnp.exp(-lam) * predict(law.coeffs(t).a * y, t).eps

    def body(y, lam):
        k1 = rate(lam, y)
        k2 = rate(lam + h / 2, y + h / 2 * k1)
        k3 = rate(lam + h / 2, y + h / 2 * k2)
        return y + h / 6 * (k1 + 2 * k2 + 2 * k3 + rate(lam + h, y + h * k3)), None

    y = jax.lax.scan(body, x / law.coeffs(law.t1).a, first + h * jnp.arange(steps))[0]
    return law.coeffs(eps).a * y


@lru_cache
def mixture_problem(n: int):
    """Return `(law, eps, predict, x, truth)` of M1 on VP, for n standard normal starts."""
    law, eps = LAWS["VP"], 0.01
    x, predict = jnp.asarray(np.random.default_rng(0).standard_normal((n, 1))), m1(law)
    return law, eps, predict, x, jax.jit(lambda x: runge_kutta(law, predict, x, eps, 1000))(x)


def mixture() -> list[dict]:
    """Print RMS errors of 2000 starts on VP from 1 to 0.01, and in brackets the independent ones.

    The truth is a solve by RK4.
    """
    (law, eps, predict, x, truth), rows = mixture_problem(2000), []
    print(f"\n{'M1, NFE':<8}" + "".join(f"{n:>20}" for n in NFES) + f"{'largest':>9}")
    for name, method, each, reference in REFERENCE:
        grids = [samplers.make_grid("uniform_lam", law, n // each, eps) for n in NFES]
        errors = errors_of(law, METHODS[method][0](law), predict, x, grids, truth)
        off = float(np.max(np.abs(errors / np.asarray(reference) - 1.0)))
        cells = "".join(f"{e:>10.2e} ({r:.1e})" for e, r in zip(errors, reference))
        print(f"{name:<8}{cells}{off:>8.1%}", flush=True)
        rows.append({"method": name, "nfe": NFES, "errors": errors.tolist(), "off": off})
    return rows


def bdia() -> list[dict]:
    """Print the largest error of BDIA's round trips over 200 starts on M1, VP from 1 to 0.01."""
    print(f"\n{'BDIA':<15}{'down and up again':<30}up and down again")
    print(f"{'':<15}" + "".join(f"{f'gamma {g}':<10}" for g in 2 * GAMMAS))
    rows = []
    for dtype in ("float64", "float32"):
        with jax.enable_x64(dtype == "float64"):
            for n in (10, 50, 100):
                down, up = round_trips(LAWS["VP"], n)
                cells = "".join(f"{v:<10.0e}" for v in (*down, *up))
                print(f"{dtype}, {n:<6}{cells}", flush=True)
                rows.append({"dtype": dtype, "steps": n, "down_up": down, "up_down": up})
    return rows


def round_trips(law, steps: int) -> list[list[float]]:
    """Return the largest error of two round trips, for each gamma.

    Down and up: the noise is sampled and inverted from the last two states, and compared with the
    noise. Up and down: the sample alone is inverted and decoded, and compared with the sample.
    """
    predict, ts = m1(law), samplers.make_grid("uniform_lam", law, steps, 0.01)
    gammas = np.repeat(GAMMAS, 200)
    method = samplers.bdia(law, gammas, frame="unit")
    climb = partial(samplers.invert, law, predict, ts=ts, gamma=gammas, frame="unit")

    @jax.jit
    def trips(z):
        run = samplers.sample(KEY, predict, method, z, ts, collect=lambda state: state.memory.x)
        noise = climb(x=run.x, above=run.trace[-1]).pair.memory.x
        again = samplers.decode(predict, method, climb(x=run.x).pair, ts).x
        return noise - z, again - run.x

    z = jnp.tile(jnp.asarray(np.random.default_rng(0).standard_normal((200, 1))), (3, 1))
    worst = lambda off: np.max(np.abs(np.asarray(off, np.float64)).reshape(3, -1), axis=1)
    return [worst(off).tolist() for off in trips(z)]


TABLES = {"orders": orders, "mixture": mixture, "bdia": bdia}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tables", nargs="*", help=f"of {', '.join(TABLES)}; all by default")
    parser.add_argument("--json", type=Path, help="where the rows are written")
    args = parser.parse_args(arguments)
    if unknown := set(args.tables) - TABLES.keys():
        parser.error(f"there is no table {', '.join(unknown)}; there are {', '.join(TABLES)}.")
    with jax.enable_x64(True):
        found = {name: TABLES[name]() for name in args.tables or TABLES}
    if args.json:
        args.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
