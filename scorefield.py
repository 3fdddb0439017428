"""A trained run in one line, for a notebook or a script.

    from scorefield import open_run

    run = open_run("runs/digits")
    run.sample(range(64), predictor="heun", steps=30).levels
    run.log_likelihood(run.to_model(run.test.fetch(range(8)))).logp
    run.restore(y, operator, method="mmps", noise_std=0.05, samples=4).x

The methods that compute take keys of their config section as keywords, which change the config for
this call only. The command line draws the same samples, since sample i depends only on its number
and on `eval.seed`. States are in units of the model unless a docstring says otherwise, and their
first axis numbers examples. All arrays are NumPy arrays. Sampling, likelihoods and bits/dim compile
once for each set of keywords and each shape; codes and restorations compile at every call.
"""

import xla_flags  # noqa: F401, I001 - sets flags of XLA before jax is imported

import functools
import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from builders.experiment import Experiment, build, replaced
from builders.own import fitted
from builders.restoration import build_restoration
from builders.stored import stored_config
from data import Source, from_array
from evaluation.report.images import to_levels
from evaluation.tasks.bits import DataBits, data_bits
from evaluation.tasks.bounds import make_batch_bits
from evaluation.tasks.codes import decode_codes, dequantised, encode_data
from evaluation.tasks.restoration import Restored, keys_of, restored
from evaluation.tasks.sampling import drawing, in_parts
from operators import LinearOperator
from likelihood import LogLik
from likelihood.latents import Latents
from parallel.mesh import by_device
from samplers.base import SampleResult
from sde_lib import AffinePath, example_keys
from sde_lib.prediction import PredictFn
from training.restore import restore_ema


class Samples(NamedTuple):
    """Samples from a run.

    `x` (n, ...): in units of the model. `levels` (n, ...): the samples as the data set stores its
    examples. `nfe`: the mean number of evaluations of the network. `failed` (n,): whether sampling
    did not end, or met a value that is not finite.
    """

    x: np.ndarray
    levels: np.ndarray
    nfe: float
    failed: np.ndarray


class Run:
    """A trained run, as `open_run` returns it: `step` and averaged `params` of a checkpoint, and
    methods that use them."""

    def __init__(self, workdir: Path, experiment: Experiment, step: int, params: Any):
        self.workdir, self.experiment, self.step, self.params = workdir, experiment, step, params
        self._kept: dict[Any, Any] = {}

    def __repr__(self) -> str:
        config = self.experiment.config
        return f"Run({self.workdir}, {config.sde.name}, {config.model.name}, step {self.step})"

    @property
    def path(self) -> AffinePath:
        """The affine law (SDE) of the run."""
        return self.experiment.path

    @property
    def train(self) -> Source:
        """The training split; its `fetch(indices)` gives raw examples."""
        return self.experiment.train

    @property
    def test(self) -> Source:
        return self.experiment.test

    @functools.cached_property
    def predict(self) -> PredictFn:
        """`(x, t, cond=None) -> Prediction(x0, eps, score, velocity)`, compiled; for samplers and
        guides. cond are classes (n,), for a network with classes."""
        return jax.jit(self.experiment.predict(self.params))

    @property
    def report(self) -> dict[str, Any]:
        """The `report.json` of the last `--mode eval`.

        Raises:
            FileNotFoundError: if no report has been written.
        """
        file = self.workdir / "report.json"
        if not file.is_file():
            raise FileNotFoundError(f"There is no {file}; run with --mode eval first.")
        return json.loads(file.read_text(encoding="utf-8"))

    def to_model(self, raw: Any, indices: Sequence[int] | None = None) -> np.ndarray:
        """Raw examples (n, ...) in units of the model. Levels are dequantised by uniform noise,
        which depends on the examples' numbers `indices`, by default 0 to n - 1."""
        raw = np.asarray(raw)
        return dequantised(self.experiment, raw, numbers(raw, indices))

    def to_levels(self, x: Any) -> np.ndarray:
        """States (n, ...) in units of the data set: the inverse of `to_model`."""
        return to_levels(self.experiment.bits_scaler, np.asarray(x))[0]

    def sample(self, seeds: Sequence[int] = range(64), **sampling: Any) -> Samples:
        """Draw the samples with the numbers `seeds`; keywords are keys of `sampling`."""
        experiment = self._with("sampling", sampling)
        if experiment.config.sampling.method == "own":
            measure = lambda: fitted(experiment, self.params, self.workdir, self.step)
            experiment = self._once("own", sampling, measure)
        make = lambda: drawing(experiment, experiment.config.eval.seed)
        run = partial(self._once("sample", sampling, make), self.params)
        size = experiment.config.sampling.batch_size
        x, nfe, failed = in_parts(run, size, np.asarray(seeds, np.int32))
        return Samples(x, to_levels(experiment.scaler, x)[0], float(np.mean(nfe)), failed)

    def log_likelihood(self, x: Any, seed: int = 0, cond: Any = None, **likelihood: Any) -> LogLik:
        """`log p` of states x (n, ...) by the probability-flow ODE, in nats, summed over
        dimensions.

        Args:
            seed: of the random probes; example i uses the key `example_keys(seed, i)`.
            cond: classes (n,) for the network; None for none.
            likelihood: keys of the config section `likelihood`.

        Raises:
            ValueError: x has another shape than (n, ...) of examples.
        """
        experiment = self._with("likelihood", likelihood)

        def batch(params, indices, x, *cond):
            keys = example_keys(seed, indices)
            return experiment.log_likelihood(keys, experiment.predict(params), x, *cond)

        make = lambda: by_device(batch, shared=1)
        run = partial(self._once(("logp", seed), likelihood, make), self.params)
        x = self._states(x)
        size = min(experiment.config.eval.batch_size, len(x))
        given = numbers(x), x, *classes_of(cond)
        return LogLik(*in_parts(run, size, *given))

    def bits_per_dim(self, levels: Any, **likelihood: Any) -> DataBits:
        """Bits/dim of raw examples `levels` (n, ...), with their mean and its standard error.

        Keywords are keys of `likelihood`.

        Raises:
            ValueError: the data are continuous, for which bits/dim is not defined.
        """
        if not self.train.levels:
            raise ValueError("Bits/dim is not defined for continuous data; take log_likelihood.")
        given = from_array("given", "given", np.asarray(levels), None, self.train.levels)
        experiment = self._with("likelihood", likelihood)
        batch_bits = self._once("bits", likelihood, lambda: make_batch_bits(experiment))
        return data_bits(experiment, self.params, given, batch_bits=batch_bits)

    def encode(self, x: Any, cond: Any = None, **likelihood: Any) -> Latents:
        """Codes of states x (n, ...): the states at t1 of the probability-flow ODE, in units of the
        prior's standard deviation.

        `cond` are classes (n,) for the network. Keywords are keys of `likelihood`.

        Raises:
            ValueError: x has another shape than (n, ...) of examples, or every solve failed.
        """
        experiment = self._with("likelihood", likelihood)
        return encode_data(experiment, self.params, self._states(x), *classes_of(cond))

    def decode(
        self, z: Any, denoise: bool = False, cond: Any = None, **likelihood: Any
    ) -> SampleResult:
        """States of codes z (n, ...): `encode` in the opposite direction, from t1 to eps.

        Args:
            denoise: replace each state at eps by its conditional mean.
            cond: classes (n,) for the network. With other classes than those given to `encode`,
                examples are translated from class to class.
            likelihood: keys of the config section `likelihood`.

        Raises:
            ValueError: z has another shape than (n, ...) of examples.
        """
        experiment = self._with("likelihood", likelihood)
        states = self._states(z)
        return decode_codes(experiment, self.params, states, denoise, *classes_of(cond))

    def restore(
        self, y: Any, operator: LinearOperator, method: str = "mmps", **guidance: Any
    ) -> Restored:
        """Restorations x (n, K, ...) of measurements `y = A x0 + noise`, (n, *shape_out).

        Args:
            operator: A, such as `operators.OPERATORS["blur"](run.experiment.shape, 1.5)`.
            method: as `guidance.method` of a config.
            guidance: keys of the config section `guidance`, such as `noise_std`, or `samples` for
                K.

        Raises:
            ValueError: `method` restores nothing, or y has another shape than `operator` measures.
        """
        experiment = self._with("guidance", {"method": method, **guidance})
        restoration = build_restoration(experiment, operator)
        if restoration is None:
            raise ValueError(f"guidance.method is {method!r}, which restores nothing; take 'mmps'.")
        y = np.asarray(y, np.float32)
        if y.shape[1:] != tuple(operator.shape_out):
            raise ValueError(
                f"y has shape {y.shape} and {operator.name!r} measures {operator.shape_out}; it "
                f"must be {('n', *operator.shape_out)}."
            )
        keys = keys_of(experiment, numbers(y))[-1]
        return restored(experiment, restoration, self.params, keys, y)

    def _with(self, section: str, values: dict[str, Any]) -> Experiment:
        """The experiment with other `values` in one section of its config; kept for later calls."""
        if not values:
            return self.experiment
        make = lambda: replaced(self.experiment, section, **values)
        return self._once(section, values, make)

    def _once(self, what: Any, values: dict[str, Any], make: Callable[[], Any]) -> Any:
        """The result of `make`, which is called once for these keywords."""
        key = what, json.dumps(values, sort_keys=True, default=repr)
        if key not in self._kept:
            self._kept[key] = make()
        return self._kept[key]

    def _states(self, x: Any) -> np.ndarray:
        """`x` as float32 states.

        Raises:
            ValueError: x is empty, or has another shape than (n, ...) of examples.
        """
        x, shape = np.asarray(x, np.float32), tuple(self.experiment.shape)
        if x.ndim == 0 or x.shape[1:] != shape or len(x) == 0:
            raise ValueError(f"The states have shape {x.shape}; this run takes {('n', *shape)}.")
        return x


def classes_of(cond: Any) -> tuple[np.ndarray, ...]:
    """The further arguments of a function that may take classes: none without classes."""
    return () if cond is None else (np.asarray(cond, np.int32),)


def open_run(workdir: str | Path, step: int | None = None) -> Run:
    """Open a run that was trained, or imported by `tools.import_score_sde`.

    Args:
        workdir: the folder of the run, which holds its config.
        step: the step of the checkpoint, by default the latest.

    Raises:
        ValueError: if there is no run, or its config is damaged.
        CheckpointError: if there is no such checkpoint.
    """
    workdir = Path(workdir).expanduser().absolute()
    experiment = build(stored_config(workdir), reads_data=False)
    return Run(workdir, experiment, *restore_ema(experiment, workdir, step))


def numbers(array: np.ndarray, given: Sequence[int] | None = None) -> np.ndarray:
    """The numbers of the examples in `array`, int32 (n,): `given`, or 0 to n - 1 by default."""
    return np.asarray(np.arange(len(array)) if given is None else given, np.int32)
