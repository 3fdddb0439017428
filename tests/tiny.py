"""Runs small enough for a test: the digits configs with a perceptron of a few thousand weights.

The same overrides are available as a config for `build` and as flags for the command line.
"""

from ml_collections import ConfigDict

from configs.digits import digits

TINY = {
    "model.width": 32,
    "model.depth": 1,
    "model.time_dim": 16,
    "training.batch_size": 16,
    "training.n_iters": 6,
    "training.log_freq": 1,
    "training.eval_freq": 0,
    "training.snapshot_freq": 3,
    "training.progress": False,
    "optim.lr": 1e-3,
    "optim.warmup": 2,
    "sampling.steps": 3,
    "sampling.batch_size": 8,
    "eval.num_samples": 40,
    "eval.batch_size": 99,
    "eval.features": ("pixels",),
    "eval.mixture": False,
}


def overrides(**changes) -> dict:
    """Return TINY with changes; a double underscore stands for the dot of a key."""
    return {**TINY, **{key.replace("__", "."): value for key, value in changes.items()}}


def tiny(law: str = "vp", **changes) -> ConfigDict:
    """Return a config, as in `tiny("ve", training__n_iters=4)`."""
    config = digits(law)
    config.update_from_flattened_dict(overrides(**changes))
    return config


def flags(**changes) -> list[str]:
    """Return the same overrides as flags for the command line."""
    return [f"--config.{key}={value}" for key, value in overrides(**changes).items()]
