"""A config of images and a finished run of it, for tests by the command line."""

import runpy

import numpy as np
import pytest
from program import inside
from tiny import flags, overrides


@pytest.fixture(scope="session")
def images(tmp_path_factory):
    """Return the path of a config of 40 images of 8x8 pixels, flipped, dequantised, with dropout.

    The images are brighter on the left, so that a flip changes the loss.
    """
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    x = rng.integers(0, 100, (40, 8, 8, 1)) + np.linspace(150, 0, 8)[None, None, :, None]
    np.savez(folder / "x.npz", x=x.astype(np.uint8))
    path = folder / "images.py"
    path.write_text(
        "from ml_collections import ConfigDict\n"
        "from configs.digits import digits\n"
        "\n"
        "def get_config():\n"
        "    config = digits('vp')\n"
        "    config.data = ConfigDict({\n"
        f"        'dataset': 'npz', 'path': {str(folder / 'x.npz')!r}, 'centered': True,\n"
        "        'random_flip': True, 'uniform_dequantization': True})\n"
        "    return config\n"
    )
    return path


@pytest.fixture(scope="session")
def images_config(images):
    """Return `images_config(**changes)`, the config that `flags(**changes)` give by flags."""

    def make(**changes):
        config = runpy.run_path(str(images))["get_config"]()
        config.update_from_flattened_dict(overrides(**changes))
        return config

    return make


@pytest.fixture(scope="session")
def images_run(images, tmp_path_factory):
    """Return the workdir of six steps on those images on one device; copy it before use."""
    workdir = tmp_path_factory.mktemp("images_run") / "run"
    argv = ["--config", images, "--workdir", workdir, "--mode", "train"]
    result = inside(*argv, *flags(training__ema_rate=0.5))
    assert result.status == 0, result.err
    assert "1 device(s), from step 0 to 6" in result.out
    return workdir
