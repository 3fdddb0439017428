"""Fixtures for tests that call the program by its command line."""

import pytest
from program import inside
from tiny import flags


@pytest.fixture(scope="session")
def digits(tmp_path_factory):
    """The workdir of six steps on digits, evaluated and saved at steps 3 and 6. Tests copy it."""
    workdir = tmp_path_factory.mktemp("digits") / "run"
    call = ("--config", "configs/digits_vp.py", "--workdir", workdir, "--mode", "train")
    result = inside(*call, *flags(training__eval_freq=3))
    assert (result.status, result.err) == (0, "")
    assert result.out.splitlines()[-2].endswith("from step 0 to 6")
    return workdir
