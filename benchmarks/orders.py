"""Of which order is every method of samplers/, and do known tables of errors come out?

    python -m benchmarks.orders [orders] [mixture] [bdia] [--json OUT]

`orders`: the slope of the RMS distance to the closed flow of correlated Gaussian data, N = 128 to
256 steps even in log-SNR, on every law, beside the stated order. `mixture`: errors on M1 beside
those of an independent computation, NFE 24 to 384. `bdia`: the largest error of a start that was
sampled and inverted. Float64; the closed forms are those of the tests.
"""

import argparse
import json
import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from closed_form import M1
from rk4 import padded, runge_kutta

import samplers
from benchmarks.truth import DATA, KEY, LAWS
from samplers.bdia import bdia, decode, invert
from samplers.unified import unified
from search.known import multistep, single

SIZES = (128, 256)
FORMS = ("noise", "data")
euler = partial(samplers.euler_maruyama, probability_flow=True)

# `name: (path -> Sampler, stated order)`.
METHODS = {
    "ddim": (samplers.ddim, 1),
    "heun": (samplers.heun, 2),
    "edm": (samplers.edm, 2),
    "euler, flow ODE": (euler, 1),
    "reverse diffusion, flow ODE": (partial(samplers.reverse_diffusion, probability_flow=True), 1),
    **{
        f"dpm_solver {k}S {f}": (partial(samplers.dpm_solver, order=k, form=f), k)
        for k in (2, 3)
        for f in FORMS
    },
    **{
        f"dpm_multistep {k}M {f}": (partial(samplers.dpm_multistep, order=k, form=f), 2)
        for k in (2, 3)
        for f in FORMS
    },
    **{
        f"adams_bashforth {k} {f}": (partial(samplers.adams_bashforth, order=k, form=f), k)
        for k in (2, 3, 4)
        for f in FORMS
    },
    "unipc 1 noise b1": (partial(samplers.unipc, order=1, form="noise", variant="b1"), 2),
    "unipc 2 data b2": (partial(samplers.unipc, order=2), 3),
    "unipc 3 data b2": (partial(samplers.unipc, order=3), 4),
    **{f"velocity_ab {k}": (partial(samplers.velocity_ab, order=k), k) for k in (2, 3, 4)},
    "bdia 0.5": (partial(samplers.bdia, gamma=0.5, frame="unit"), 1),
    "bdia 1": (partial(samplers.bdia, gamma=1.0, frame="unit"), 2),
    "restoration, half of t": (partial(samplers.restoration, look_back=0.5), 1),
    "restoration, all of t": (samplers.restoration, 1),
    "lml 0.3 around ddim": (lambda path: samplers.lml(path, samplers.ddim(path), 0.3), 1),
}
# Schedules, on nodes lam.
SCHEDULES = {
    "unified, 2M data": (partial(multistep, order=2, form="data", kind="dpm"), 1, 2),
    "unified, 3S noise": (partial(single, order=3), 3, 3),
}
NFES = (24, 48, 96, 192, 384)
# RMS errors on M1 by an independent computation: name, method, evaluations a step, figures.
REFERENCE = [
    ("DDIM", samplers.ddim, 1, (6.6e-2, 3.3e-2, 1.7e-2, 8.4e-3, 4.2e-3)),
    ("DPM-2S", *METHODS["dpm_solver 2S noise"], (2.4e-2, 5.4e-3, 1.3e-3, 3.2e-4, 7.9e-5)),
    ("++2S", *METHODS["dpm_solver 2S data"], (2.4e-2, 7.1e-3, 2.0e-3, 5.3e-4, 1.4e-4)),
    ("DPM-3S", *METHODS["dpm_solver 3S noise"], (8.6e-3, 5.0e-4, 7.2e-5, 1.0e-5, 1.3e-6)),
    ("2M", METHODS["dpm_multistep 2M noise"][0], 1, (1.1e-2, 3.2e-3, 8.9e-4, 2.3e-4, 5.9e-5)),
    ("++2M", METHODS["dpm_multistep 2M data"][0], 1, (8.7e-3, 2.3e-3, 6.0e-4, 1.5e-4, 3.8e-5)),
    ("3M", METHODS["dpm_multistep 3M noise"][0], 1, (6.3e-3, 1.4e-3, 3.0e-4, 6.7e-5, 1.6e-5)),
    ("++3M", METHODS["dpm_multistep 3M data"][0], 1, (3.1e-3, 6.0e-4, 1.3e-4, 3.2e-5, 7.9e-6)),
]


def slope(errors) -> float:
    return float(np.log2(errors[0] / errors[1]))


def gaussian(law):
    """Starts, the end of the grid, and where the exact flow leads."""
    eps = max(1e-3, law.t0)
    x = law.prior_std() * jnp.asarray(np.random.default_rng(0).standard_normal((64, 2)))
    return x, eps, DATA.flow_map(law, x, law.t1, eps)


def errors_of(law, sampler, predict, x, grids, truth) -> np.ndarray:
    """RMS distances, one for each grid, from one compiled run."""
    run = lambda ts: samplers.sample(KEY, predict, sampler, x, ts).x
    ends = jax.jit(jax.vmap(run, in_axes=1))(padded(grids))
    return np.sqrt(np.mean((np.asarray(ends) - np.asarray(truth)[None]) ** 2, axis=(1, 2)))


def orders() -> list[dict]:
    print(f"{'method':<30}{'stated':>7}" + "".join(f"{name:>8}" for name in LAWS))
    rows = []
    for name, (make, stated) in METHODS.items():
        found = {}
        for law_name, law in LAWS.items():
            x, eps, truth = gaussian(law)
            grids = [samplers.make_grid("uniform_lam", law, n, eps) for n in SIZES]
            errors = errors_of(law, make(law), DATA.predict(law), x, grids, truth)
            found[law_name] = slope(errors)
        rows.append(told(name, stated, found))
    for name, (make, each, stated) in SCHEDULES.items():
        found = {}
        for law_name, law in LAWS.items():
            x, eps, truth = gaussian(law)
            ends = law.lam(jnp.asarray([law.t1, eps]))
            predict, errors = DATA.predict(law), []
            for n in SIZES:
                run = unified(law, make(np.linspace(*ends, n // each + 1)), eps)
                end = jax.jit(lambda x, run=run, predict=predict: run(KEY, predict, x).x)(x)
                errors.append(float(jnp.sqrt(jnp.mean((end - truth) ** 2))))
            found[law_name] = slope(errors)
        rows.append(told(name, stated, found))
    return rows


def told(name: str, stated: int, found: dict[str, float]) -> dict:
    print(f"{name:<30}{stated:>7}" + "".join(f"{v:>8.2f}" for v in found.values()), flush=True)
    return {"method": name, "stated": stated, **found}


def mixture() -> list[dict]:
    law, eps = LAWS["VP"], 0.01
    x = jnp.asarray(np.random.default_rng(0).standard_normal((2000, 1)))
    truth = jax.jit(lambda x: runge_kutta(law, M1, x, eps, 4000))(x)
    print(f"\n{'M1, NFE':<10}" + "".join(f"{n:>22}" for n in NFES) + f"{'largest':>10}")
    rows = []
    for name, make, each, reference in REFERENCE:
        grids = [samplers.make_grid("uniform_lam", law, n // each, eps) for n in NFES]
        errors = errors_of(law, make(law), M1.predict(law), x, grids, truth)
        off = float(np.max(np.abs(errors / np.asarray(reference) - 1.0)))
        cells = "".join(f"{e:>11.2e} ({r:.1e})" for e, r in zip(errors, reference))
        print(f"{name:<10}{cells}{off:>9.1%}", flush=True)
        rows.append({"method": name, "errors": errors.tolist(), "off": off})
    return rows


def round_trips() -> list[dict]:
    """Down from a start, up again: the largest difference, over the size of the start."""
    law, predict, rows = LAWS["VP"], M1.predict(LAWS["VP"]), []
    print(f"\n{'BDIA, N':<14}" + "".join(f"{f'gamma {g}':>14}" for g in (1.0, 0.9, 0.5)))
    for dtype in (jnp.float64, jnp.float32):
        x = jnp.asarray(np.random.default_rng(0).standard_normal((200, 1)), dtype)
        for n in (10, 50, 100):
            ts = jnp.asarray(samplers.make_grid("uniform_lam", law, n, 0.01), dtype)
            off = [round_trip(law, predict, x, ts, g) for g in (1.0, 0.9, 0.5)]
            print(f"{dtype.__name__} {n:<6}" + "".join(f"{v:>14.1e}" for v in off), flush=True)
            rows.append({"dtype": dtype.__name__, "steps": n, "errors": off})
    return rows


def round_trip(law, predict, x, ts, gamma) -> float:
    """Data up to the pair of states, and down again."""

    def both(x):
        pair = invert(law, predict, x, ts, gamma, frame="unit").pair
        return decode(predict, bdia(law, gamma, frame="unit"), pair, ts).x

    return float(jnp.max(jnp.abs(jax.jit(both)(x) - x)))


TABLES = {"orders": orders, "mixture": mixture, "bdia": round_trips}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tables", nargs="*", help=f"of {', '.join(TABLES)}; all by default")
    parser.add_argument("--json", help="where the rows are written")
    args = parser.parse_args(arguments)
    if unknown := set(args.tables) - TABLES.keys():
        parser.error(f"there is no table {', '.join(unknown)}; there are {', '.join(TABLES)}.")
    with jax.enable_x64(True):
        found = {name: TABLES[name]() for name in args.tables or TABLES}
    if args.json:
        Path(args.json).write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
