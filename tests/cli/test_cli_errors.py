"""Bad input gives one line on standard error and a nonzero status, and writes no file."""

import subprocess
import sys

import numpy as np
import pytest
from program import ROOT, inside

DIGITS = ROOT / "configs" / "digits_vp.py"
CIFAR = ROOT / "configs" / "vp" / "cifar10_ddpmpp_continuous.py"

# Each row is an override and words of the error: the value given, and the known names or the rule.
UNKNOWN_NAMES = [
    ("sde.name=vpp", "sde.name 'vpp'", "did you mean 'vp'", "subvp"),
    ("model.name=mlpp", "model.name 'mlpp'", "did you mean 'mlp'", "ncsnpp"),
    ("model.embedding_type=forier", "embedding_type 'forier'", "'fourier'"),
    ("model.nonlinearity=swich", "nonlinearity 'swich'", "'swish'"),
    ("model.dtype=float31", "model.dtype 'float31'", "'float32'"),
    ("prediction.kind=epsilon", "prediction.kind 'epsilon'", "eps"),
    ("prediction.conditioning=lambda", "prediction.conditioning 'lambda'", "'lam'"),
    ("loss.name=denoise", "loss.name 'denoise'", "'denoising'"),
    ("loss.weighting=likelyhood", "loss.denoising.weighting is 'likelyhood'", "likelihood"),
    ("loss.time_sampling=unifrom", "loss.denoising.time_sampling is 'unifrom'", "uniform"),
    ("optim.optimizer=adamw", "optim.optimizer 'adamw'", "adam"),
    ("optim.schedule=cosin", "optim.schedule is 'cosin'", "constant, cosine"),
    ("data.dataset=digit", "data.dataset 'digit'", "'digits'"),
    ("sampling.method=pcc", "sampling.method 'pcc'", "'pc'"),
    ("sampling.predictor=huen", "sampling.predictor 'huen'", "'heun'"),
    ("sampling.corrector=langevine", "sampling.corrector 'langevine'", "'langevin'"),
    ("sampling.grid=unifom", "sampling.grid 'unifom'", "'uniform'"),
    ("sampling.order=papre", "sampling.pc.order is 'papre'", "paper"),
    ("sampling.variance=posterio", "sampling.ancestral.variance is 'posterio'", "posterior"),
    ("likelihood.solver=dopri", "likelihood.solver 'dopri'", "'dopri5'"),
    ("likelihood.divergence=hutchinson", "likelihood.divergence 'hutchinson'", "rademacher"),
    ("eval.bpd_dataset=tset", "eval.bpd_dataset 'tset'", "'test'"),
    ("eval.features=('pixel',)", "eval.features 'pixel'", "'pixels'"),
    ("eval.reference=tset", "eval.reference 'tset'", "'test'"),
]

IMPOSSIBLE_NUMBERS = [
    ("seed=-1", "seed is -1", "[0, 2**32)"),
    ("eval.seed=4294967296", "eval.seed is 4294967296", "[0, 2**32)"),
    ("training.batch_size=-8", "training.batch_size is -8", "positive"),
    ("training.batch_size=0", "training.batch_size is 0", "positive"),
    ("training.n_iters=0", "training.n_iters is 0", "positive"),
    ("training.n_jitted_steps=7", "training.n_iters is ", "n_jitted_steps = 7"),
    ("training.ema_rate=1.0", "training.ema_rate is 1.0", "[0, 1)"),
    ("training.keep_snapshots=-1", "training.keep_snapshots is -1", "not negative"),
    ("training.keep_every=-1", "training.keep_every is -1", "not negative"),
    ("training.keep_every=7", "training.keep_every is 7", "training.snapshot_freq = "),
    ("training.save_minutes=-0.5", "training.save_minutes is -0.5", "not negative"),
    ("training.save_minutes=inf", "training.save_minutes is inf", "finite"),
    ("optim.lr=0", "optim.lr is 0", "positive"),
    ("optim.lr=inf", "optim.lr is inf", "finite"),
    ("optim.lr=nan", "optim.lr is nan", "finite"),
    ("optim.eps=0", "optim.eps is 0", "positive"),
    ("optim.beta2=1.0", "optim.beta2 is 1.0", "[0, 1)"),
    ("optim.warmup=-1", "optim.warmup is -1", "not negative"),
    ("optim.grad_clip=-1", "optim.grad_clip is -1", "not negative"),
    ("model.width=0", "model.width is 0", "positive"),
    ("model.dropout=1.5", "model.dropout is 1.5", "[0, 1)"),
    ("model.time_dim=2", "time_dim", "at least 4"),
    ("prediction.sigma_data=0", "prediction.sigma_data is 0", "positive"),
    ("sde.beta_min=25", "sde.beta_min is 25.0", "beta_max = 20.0"),
    ("sde.beta_min=-0.1", "sde.beta_min is -0.1", "beta_max"),
    ("sde.t0=0", "sde.t0 is 0", "t1"),
    ("sde.t0=2", "sde.t0 is 2", "t1 = 1.0"),
    ("sampling.steps=0", "sampling.steps is 0", "positive"),
    ("sampling.steps=-3", "sampling.steps is -3", "positive"),
    ("sampling.eps=0", "sampling.eps is 0", "sde.t0 = 1e-05", "sde.t1 = 1.0"),
    ("sampling.eps=1.5", "sampling.eps is 1.5", "sde.t1 = 1.0"),
    ("likelihood.eps=1.0", "likelihood.eps is 1.0", "sde.t1 = 1.0"),
    ("likelihood.eps=1e-6", "likelihood.eps is 1e-06", "sde.t0 = 1e-05"),
    ("likelihood.num_probes=0", "likelihood.rademacher.num_probes is 0", "positive"),
    ("eval.num_samples=-5", "eval.num_samples is -5", "positive"),
    ("eval.num_samples=6", "eval.num_samples is 6", "20"),
]

# Values of a wrong type, and unknown keys.
BAD_FLAGS = [
    ("sde.beta_mn=1", "unknown config key 'sde.beta_mn'", "'sde.beta_min'"),
    ("sde.sigma_max=1", "unknown config key 'sde.sigma_max'"),
    ("tarining.n_iters=1", "'tarining.n_iters'", "'training.n_iters'"),
    ("model=3", "unknown config key 'model'"),
    ("training.batch_size=many", "training.batch_size", "many"),
    ("training.batch_size=1.5", "training.batch_size", "1.5"),
    ("optim.lr=fast", "optim.lr", "fast"),
]

# Options that are wrong only in combination.
TOGETHER = [
    (
        ["sampling.predictor=none", "sampling.corrector=none"],
        ["sampling.predictor and sampling.corrector", "none"],
    ),
    (["sampling.probability_flow=true"], ["probability_flow is set to True", "'ancestral'"]),
    (["sampling.variant=b3"], ["sampling.variant is set to 'b3'", "no chosen method reads it"]),
    (["sampling.edm.s_churn=4"], ["sampling.edm.s_churn is set to 4", "'ancestral'"]),
    (["sampling.predictor=unipc", "sampling.variant=b3"], ["sampling.unipc.variant is 'b3'", "b2"]),
    (["sampling.predictor=unipc", "sampling.form=noisy"], ["'noisy'", "noise"]),
    (["sampling.corrector=langevin", "sampling.norm=batches"], ["langevin.norm is 'batches'"]),
    (["sampling.method=ode", "sampling.solver=tsit"], ["sampling.ode.solver is 'tsit'", "tsit5"]),
    (["sampling.method=ode", "sampling.batching=exampel"], ["ode.batching is 'exampel'"]),
    (["sampling.method=sde", "sampling.batching=batch"], ["batching", "'sde'"]),
    (["model.embedding_type=fourier"], ["'lam'", "'fourier'", "negative"]),
    (["data.dataset=npz"], ["data.dataset is 'npz'", "path"]),
    (["sde.name=ve"], ["sde.name is 've'", "sigma_max", "beta_max"]),
    (["model.name=ncsnpp"], ["model.name is 'ncsnpp'", "width"]),
]


def complaint(result):
    """Return the one line that a failed call writes to standard error."""
    lines = result.err.splitlines()
    assert result.status != 0
    assert len(lines) == 1, result.err
    assert "Traceback" not in result.err and result.out == ""
    assert len(lines[0]) < 600, lines[0]
    return lines[0]


def overrides(texts):
    return [f"--config.{text}" for text in texts]


def check(tmp_path, texts, words, config=DIGITS, mode="train", more=()):
    """Assert that a call is refused with all `words` in its one line, and writes nothing.

    The config has two updates, so a call that is not refused by mistake ends soon.
    """
    workdir = tmp_path / "run"
    texts = ["training.n_iters=2", *texts]
    given = ("--config", config, "--workdir", workdir, "--mode", mode)
    line = complaint(inside(*given, *overrides(texts), *more))
    for word in words:
        assert word.lower() in line.lower(), line
    assert_untouched(tmp_path)


def assert_untouched(folder):
    """Assert that the folder is empty: no workdir and no compilation cache."""
    assert not list(folder.iterdir())


@pytest.mark.parametrize("text, words", [(t, w) for t, *w in UNKNOWN_NAMES], ids=lambda v: str(v))
def test_unknown_names(tmp_path, text, words):
    check(tmp_path, [text], words)


@pytest.mark.parametrize(
    "text, words", [(t, w) for t, *w in IMPOSSIBLE_NUMBERS], ids=lambda v: str(v)
)
def test_impossible_numbers(tmp_path, text, words):
    check(tmp_path, [text], words)


@pytest.mark.parametrize("text, words", [(t, w) for t, *w in BAD_FLAGS], ids=lambda v: str(v))
def test_bad_flags(tmp_path, text, words):
    check(tmp_path, [text], words)


@pytest.mark.parametrize("texts, words", TOGETHER, ids=lambda v: str(v[0]))
def test_together(tmp_path, texts, words):
    check(tmp_path, texts, words)


def test_batch_that_does_not_divide(program, tmp_path):
    """The batch is refused before the workdir is claimed, so the corrected run can use it."""
    workdir = tmp_path / "run"
    result = program(
        *("--config", DIGITS, "--workdir", workdir, "--mode", "train"),
        "--config.training.batch_size=12",
        devices=8,
    )
    line = complaint(result)
    assert "training.batch_size is 12" in line and "8 devices" in line
    assert_untouched(tmp_path)


@pytest.mark.parametrize("size", [6, 12, 20])
def test_image_that_does_not_halve(tmp_path, size):
    """DDPM++ halves the resolution three times, so 8 must divide the size."""
    rng = np.random.default_rng(0)
    source = tmp_path / "data"
    source.mkdir()
    np.savez(source / "x.npz", x=rng.integers(0, 256, (20, size, size, 3), np.uint8))
    (tmp_path / "out").mkdir()
    config = tmp_path / "config.py"
    config.write_text(
        "from configs.base import base\ndef get_config():\n    return base('vp', 'ncsnpp', 'npz')\n"
    )
    check(
        tmp_path / "out",
        [f"data.path={source / 'x.npz'}"],
        [f"{size}", "8"],
        config=config,
    )


@pytest.mark.parametrize(
    "dataset, path, words",
    [
        ("npz", "", ["data.path is empty", "'npz'"]),
        ("npz", "nowhere.npz", ["nowhere.npz"]),
        ("idx", "nowhere", ["nowhere"]),
        ("image_folder", "nowhere", ["nowhere"]),
        ("tfds", "nowhere", ["nowhere"]),
    ],
)
def test_data_that_are_not_there(tmp_path, dataset, path, words):
    config = tmp_path / "config.py"
    config.write_text(
        "from configs.base import base\n"
        "def get_config():\n"
        f"    return base('vp', 'mlp', {dataset!r})\n"
    )
    (tmp_path / "out").mkdir()
    path = str(tmp_path / path) if path else ""
    check(tmp_path / "out", [f"data.path={path}"], words, config=config)


@pytest.mark.parametrize("mode", ["eval", "sample"])
def test_no_checkpoint(tmp_path, mode):
    check(tmp_path, [], ["no checkpoint", "--mode train"], mode=mode)


@pytest.mark.parametrize("seeds", ["a", "5-3", "-1", "1-2-3", "", "1.5", "0-", "²", "2147483648"])
def test_seeds(tmp_path, seeds):
    """Wrong seeds are refused before a checkpoint is looked for."""
    more = [f"--seeds={seeds}"]
    check(tmp_path, [], ["--seeds", repr(seeds)], mode="sample", more=more)


def test_mode_and_other_flags(tmp_path):
    given = ["--config", DIGITS, "--workdir", tmp_path / "run"]
    assert "--mode" in complaint(inside(*given))
    assert "trian" in complaint(inside(*given, "--mode", "trian"))
    assert "--workdir" in complaint(inside("--config", DIGITS, "--mode", "train"))
    assert "--config" in complaint(inside("--workdir", tmp_path / "run", "--mode", "train"))
    assert "mdoe" in complaint(inside(*given, "--mdoe", "train"))
    assert "extra" in complaint(inside(*given, "--mode", "train", "extra"))
    assert_untouched(tmp_path)


@pytest.mark.parametrize(
    "flag, mode, readers",
    [
        ("--wait", "train", "eval"),
        ("--nowait", "sample", "eval"),
        ("--step=3", "train", "eval, sample, encode, decode, interpolate"),
        ("--step=3", "fid_stats", "eval, sample, encode, decode, interpolate"),
        ("--profile=5", "eval", "train"),
        ("--profile=0", "decode", "train"),
        ("--seeds=0-3", "train", "sample, encode, interpolate"),
        ("--seeds=0-3", "eval", "sample, encode, interpolate"),
        ("--seeds=0-63", "decode", "sample, encode, interpolate"),
        ("--force_config", "fid_stats", "train, eval, sample, encode, decode, interpolate"),
    ],
)
def test_a_flag_that_the_mode_does_not_read(tmp_path, flag, mode, readers):
    """A flag that the mode does not read is refused, also with its default value."""
    name = flag.replace("--no", "--").partition("=")[0]
    words = [f"{name} is given, and --mode {mode} does not read it, only --mode {readers};"]
    check(tmp_path, [], words, mode=mode, more=[flag])


def test_no_workdir(program, tmp_path):
    """An empty --workdir is refused; it does not mean the current folder."""
    for given in (["--workdir="], ["--workdir", ""]):
        argv = ["--config", DIGITS, "--mode", "train", *given]
        assert "--workdir is empty; name" in complaint(program(*argv, cwd=tmp_path))
    assert_untouched(tmp_path)


AT_HOME = """
import os, sys
import main
from absl import app

os.environ["HOME"] = sys.argv.pop(1)
app.run(main.main, flags_parser=main.parse_flags)
"""


def test_the_home_folder(program, tmp_path):
    """A shell does not expand the ~ in --workdir=~/run, so the program does."""
    (tmp_path / "mine.py").write_text(
        "from configs.base import base\ndef get_config():\n    return base('vp', 'mlp', 'npz')\n"
    )
    given = (tmp_path, "--config=~/mine.py", "--mode=train")
    text = complaint(program.script(AT_HOME, *given, "--workdir=~/run", "--config.data.path=~/x"))
    assert f"No file {tmp_path / 'x'}" in text
    (tmp_path / "run").write_text("mine")
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "x.npz", x=rng.integers(0, 256, (200, 4, 4, 1), np.uint8))
    given += ("--workdir=~/run", "--config.data.path=~/x.npz")
    assert f"The workdir {tmp_path / 'run'} cannot be" in complaint(program.script(AT_HOME, *given))
    given = (*given[:1], "--config=~/yours.py", *given[2:])
    assert f"no config file {tmp_path / 'yours.py'}" in complaint(program.script(AT_HOME, *given))
    assert not (ROOT / "~").exists()


def test_workdir_that_is_a_file(tmp_path):
    workdir = tmp_path / "run"
    workdir.write_text("mine")
    result = inside("--config", DIGITS, "--workdir", workdir, "--mode", "train")
    assert str(workdir) in complaint(result)
    assert workdir.read_text() == "mine"


def test_debug_shows_the_traceback(tmp_path):
    given = ["--config", DIGITS, "--workdir", tmp_path / "run", "--mode", "train", "--debug"]
    result = inside(*given, "--config.sde.name=vpp")
    assert result.status != 0
    assert "Traceback" in result.err and "Unknown sde.name 'vpp'" in result.err


def test_as_a_shell_sees_them(program, tmp_path):
    """A missing config file, an unknown key and an unknown name, each in a process of its own."""
    argv = ["--workdir", tmp_path / "run", "--mode", "train"]
    text = complaint(program("--config", "configs/nowhere.py", *argv))
    assert "no config file" in text and "configs/nowhere.py" in text
    argv = ["--config", DIGITS, *argv]
    text = complaint(program(*argv, "--config.optim.rl=1"))
    assert "Unknown config key 'optim.rl'" in text and "lr" in text
    # The last call is a plain `python main.py`, without the tests' server.
    command = [sys.executable, "main.py", *map(str, argv), "--config.sampling.grid=even"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 1 and result.stdout == ""
    (text,) = result.stderr.splitlines()
    assert "sampling.grid 'even'" in text and "karras" in text
    assert_untouched(tmp_path)
