"""How many evaluations does restoring a digit take, by MR sampler, posterior step and Euler?

    python -m benchmarks.guidance.restoration_digits [--grid uniform] [--train] [--steps 4000]

The law is the mean-reverting one with cosine theta (Luo et al. 2023) on 8x8 digits in [0, 1], with
std 50 / 255, from t = 1 to 0.01. Without `--train` the denoiser is a formula
(`restoration_problem.py`). For methods of the ODE, the script then prints the median over starts of
the RMS difference per pixel to the exact end of the flow, and the share of starts that end at
another digit. For all methods it prints the energy distance to the posterior and the RMSE to the
clean digit. With `--train` a small network learns to restore pooled digits, and restores those of
the test split.
"""

import argparse
import itertools
import time
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax

import samplers
from benchmarks.guidance.restoration_problem import (
    END,
    LAW,
    Problem,
    digits,
    energy,
    enlarge,
    exact_draws,
    make_problem,
    pool,
    predict_fn,
    starts,
)
from losses.mean_reverting import mean_reverting_loss
from models import MLP
from samplers.base import begin
from samplers.steps.mean_reverting import euler, mr_sampler, posterior, reverting
from sde_lib.mean_reverting_given import parametrize_given
from training.state import create_state, parameter_count
from training.step import make_train_step

COPIES = 16
BUDGETS = (5, 10, 20, 50)
LONG = (*BUDGETS, 100)
KEY = jax.random.key(0)

# (name, `mu -> Sampler`, budgets, whether the method follows the flow). A "lowered" sampler also
# gets the number of steps, because its order falls at the end.
METHODS = [
    ("Euler, SDE", partial(euler, LAW), LONG, False),
    ("posterior", partial(posterior, LAW), LONG, False),
    ("Euler, ODE", partial(euler, LAW, probability_flow=True), LONG, True),
    *(
        (f"MR-ODE-{k} {f}", partial(mr_sampler, LAW, order=k, form=f), BUDGETS, True)
        for k in (1, 2, 3)
        for f in ("noise", "data")
    ),
    ("MR-ODE-2 data, lowered", partial(mr_sampler, LAW), BUDGETS, True),
    *(
        (f"MR-SDE-{k} {f}", partial(mr_sampler, LAW, order=k, form=f, eta=1.0), BUDGETS, False)
        for k in (1, 2)
        for f in ("noise", "data")
    ),
    ("MR-SDE-2 data, lowered", partial(mr_sampler, LAW, eta=1.0), BUDGETS, False),
]
TRAINED = ("Euler, SDE", "posterior", "Euler, ODE", "MR-ODE-2 data", "MR-SDE-2 data")


def runner(name: str, make, mu, predict):
    """Return `nfe -> run`; the step is compiled once for all nfe unless the sampler needs nfe."""
    if name.endswith("lowered"):
        return lambda nfe: stepper(make(mu, steps=nfe), predict)
    run = stepper(make(mu), predict)
    return lambda nfe: run


def stepper(sampler: samplers.Sampler, predict):
    """Return `(x, ts) -> x`: the loop of `samplers.sample`, with one compiled step for all ts."""
    step = jax.jit(lambda key, state, span: sampler.step(key, predict, state, span))

    def run(x, ts):
        state = begin(sampler, jnp.asarray(x), ts[0])
        for i, (t, s) in enumerate(itertools.pairwise(ts)):
            span = samplers.Span(t, s, i, len(ts) - 1)
            state = step(jax.random.fold_in(KEY, i), state, span)
        return np.asarray(state.x)

    return run


def flow_end(problem: Problem, x: np.ndarray, steps: int = 400) -> np.ndarray:
    """Return the end of the flow from x, by UniPC of order 3 in steps even in lam."""
    method = reverting(samplers.unipc(LAW, 3), LAW, jnp.asarray(problem.mu))
    ts = samplers.make_grid("uniform_lam", LAW, steps, END)
    return np.asarray(
        jax.jit(lambda x: samplers.sample(KEY, predict_fn(problem), method, x, ts).x)(x)
    )


def rms(difference: np.ndarray) -> float:
    return float(np.sqrt(np.mean(difference**2)))


def off_flow(out: np.ndarray, end: np.ndarray) -> tuple[float, float]:
    """Return the median RMS difference per pixel, and the share of starts where it exceeds 0.05.

    Two digits mostly differ by 0.2, so a difference above 0.05 means another digit.
    """
    off = np.sqrt(np.mean((out - end) ** 2, axis=1))
    return float(np.median(off)), float(np.mean(off > 0.05))


def compare(grid: str) -> None:
    """Print error, energy distance and RMSE to the clean digit, for each method and budget."""
    problem = make_problem(copies=COPIES)
    x, mu = starts(problem), jnp.asarray(problem.mu)
    end, twice = flow_end(problem, x), flow_end(problem, x, 800)
    drawn, of_drawn = exact_draws(problem), partial(energy, problem, copies=COPIES)
    mean = np.exp(problem.log_prior) @ problem.points
    effective = np.exp(-np.sum(np.exp(problem.log_prior) * problem.log_prior, axis=1))
    print(f"reference right to {rms(end - twice):.1e}; {np.median(effective):.1f} digits fit a mu")
    print(f"RMSE to clean: mu {rms(problem.mu - problem.clean):.4f}, posterior mean", end=" ")
    print(f"{rms(mean - problem.clean):.4f}, posterior draw {rms(drawn - problem.clean):.4f}")
    print("energy of posterior draws {:.4f} +- {:.4f}".format(*of_drawn(drawn)), end="; ")
    print("of the exact flow {:.4f} +- {:.4f}".format(*of_drawn(end)))
    print("method                  NFE  error    other  energy             RMSE")
    for name, make, budgets, follows in METHODS:
        run = runner(name, make, mu, predict_fn(problem))
        for nfe in budgets:
            out = run(nfe)(x, samplers.make_grid(grid, LAW, nfe, END))
            error = "{:.5f}  {:.3f}".format(*off_flow(out, end)) if follows else " " * 14
            value, se = of_drawn(out)
            print(f"{name:<22}{nfe:>5}  {error}  {value:.4f} +- {se:.4f}", end="  ")
            print(f"{rms(out - problem.clean):.4f}")


def psnr(x: np.ndarray, clean: np.ndarray) -> float:
    """Return the mean over images of `-10 log10(MSE)` in dB, for values in [0, 1]."""
    return float(np.mean(-10.0 * np.log10(np.mean((x - clean) ** 2, axis=1))))


def train(steps: int, batch: int = 128):
    """Train a perceptron that takes `[x_t, mu]` and predicts the velocity by the angle.

    Returns `mu -> PredictFn` with the averaged parameters.
    """
    model = MLP(width=256, depth=3, dropout=0.1, embedding_type="linear", time_dim=64)
    clean = digits("train").astype(np.float32)
    mu = enlarge(pool(clean)).astype(np.float32)

    def network(params, x, mu, cond, dropout_key=None):
        kwargs = {} if dropout_key is None else {"train": True, "rngs": {"dropout": dropout_key}}
        out = model.apply({"params": params}, jnp.concatenate([x, mu], -1), cond, **kwargs)
        return out[:, : x.shape[1]]

    example = jnp.zeros((1, 2 * clean.shape[1]))
    params = model.init(jax.random.key(1), example, jnp.zeros(1))["params"]
    schedule = optax.warmup_cosine_decay_schedule(0.0, 1e-3, 200, steps)
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule))
    loss = mean_reverting_loss(LAW, network, "angle", "lam", weighting="target", stratify=True)
    step = jax.jit(make_train_step(loss, tx, 0.999))
    state, rng, begin = create_state(params, tx, 0), np.random.default_rng(0), time.perf_counter()
    for i in range(steps):
        rows = rng.integers(len(clean), size=batch)
        state, metrics = step(state, {"x0": clean[rows], "x1": mu[rows]})
        if i % (steps // 4) == 0 or i == steps - 1:
            print(f"step {i}: loss {float(metrics['loss']):.4f}")
    seconds = time.perf_counter() - begin
    print(f"{parameter_count(params)} parameters, {steps} steps, {seconds:.0f} s")
    apply = partial(network, state.ema_params)
    return lambda mu: parametrize_given("angle", LAW, apply, mu, "lam")


def restore(steps: int, grid: str) -> None:
    """Print how well the trained network restores the pooled test digits.

    The figures are RMSE and PSNR to the clean digits, and the RMSE between the pooled result and
    the pooled clean digit, which is 0 for a draw of the true posterior.
    """
    predict_given = train(steps)
    clean = digits("test").astype(np.float32)
    mu = jnp.asarray(enlarge(pool(clean)), jnp.float32)
    z = np.random.default_rng(1).standard_normal(mu.shape).astype(np.float32)
    x, predict = mu + LAW.std * z, predict_given(mu)

    def show(name, out):
        out = np.clip(np.asarray(out), 0.0, 1.0)
        print(f"{name:<28}RMSE {rms(out - clean):.4f}  PSNR {psnr(out, clean):.2f} dB", end="  ")
        print(f"pooled again {rms(pool(out) - pool(clean)):.4f}")

    show("mu", mu)
    show("x0 at t = 1, 1 NFE", predict(x, jnp.float32(1.0)).x0)
    for name, make, budgets, _ in METHODS:
        if name.removesuffix(", lowered") in TRAINED:
            run = runner(name, make, mu, predict)
            for nfe in (n for n in budgets if n in (5, 10, 20, 100)):
                show(f"{name}, {nfe}", run(nfe)(x, samplers.make_grid(grid, LAW, nfe, END)))
    run, total = stepper(mr_sampler(LAW, mu, lower_order_final=True), predict), 0.0
    for i in range(8):
        z = np.random.default_rng(10 + i).standard_normal(mu.shape).astype(np.float32)
        total = total + run(mu + LAW.std * z, samplers.make_grid(grid, LAW, 10, END)) / 8
    show("mean of 8, MR-2 lowered, 10", total)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--grid", default="uniform", choices=samplers.GRIDS)
    parser.add_argument("--train", action="store_true")
    parser.add_argument("--steps", type=int, default=4000, help="of training")
    args = parser.parse_args(arguments)
    if args.train:
        return restore(args.steps, args.grid)
    with jax.enable_x64(True):
        compare(args.grid)


if __name__ == "__main__":
    main()
