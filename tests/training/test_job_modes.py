"""Modes of a job of several processes give the results of one process."""

import json
import shutil

import jax
import numpy as np
import pytest
from program import inside
from tiny import flags

# Runs several modes in each process of one job, one after the other, because compiling takes the
# time here.
RUNS = """
import json, sys
from pathlib import Path
import main
from parallel.processes import share

*argv, runs = (a.removeprefix("runs=") for a in sorted(sys.argv, key=lambda a: "runs=" in a))
main.parse_flags(argv)
main.join_job()
for mode, changes in json.loads(runs):
    share(b"")  # what the lead wrote before is there for the others
    config = main.CONFIG.value.copy_and_resolve_references()
    config.update_from_flattened_dict(changes)
    main.FLAGS.mode = mode
    main.run(main.build(config), Path(main.WORKDIR.value))
"""
TRAIN = {"latents__dataset": "train", "edit__images": "train", "guidance__dataset": "train"}
RESTORED = {"guidance.operator": "mask", "guidance.samples": 2, "guidance.noise_std": 0.3}
# Modes by the file that they write. Each takes several batches, of which the last is not full.
MADE = {
    "latents/step_6/train/latents_0-10": ("encode", {}),
    "latents/step_6/decoded_0-10_tau_0.8": ("decode", {"latents.temperature": 0.8}),
    "latents/step_6/walk_slerp_0-10": ("interpolate", {"latents.nodes": 3}),
    "edited/step_6/sdedit_0-10": ("sample", {"edit.method": "sdedit", "edit.samples": 2}),
    "restored/step_6/mmps_mask_0-10": ("sample", {"guidance.method": "mmps", **RESTORED}),
    "restored/step_6/ensemble_mask_0-10": (
        "sample",
        {"guidance.method": "ensemble", "guidance.ensemble.particles": 8, **RESTORED},
    ),
}


@pytest.fixture(scope="module")
def made(program, images, images_run, tmp_path_factory):
    """Return two workdirs in which one process, and two processes, have written all files."""
    alone, job = (tmp_path_factory.mktemp(name) / "run" for name in ("alone", "job"))
    for workdir in (alone, job):
        shutil.copytree(images_run, workdir)
    # Programs that other tests have compiled in this process may round differently from those that
    # the processes of a job compile.
    jax.clear_caches()
    argv, seeds = ["--config", images, *flags(**TRAIN)], ["--seeds", "0-10"]
    for mode, changes in MADE.values():
        given = [] if mode == "decode" else list(seeds)
        given += [f"--config.{key}={value}" for key, value in changes.items()]
        result = inside(*argv, "--workdir", alone, "--mode", mode, *given)
        assert result.status == 0 and result.out.count("'folder'") == 1, result
    argv += [*seeds, "--mode", "sample", "--workdir", job]
    argv.append(f"runs={json.dumps(list(MADE.values()))}")
    results = program.job(2, *argv, script=RUNS)
    assert [result.status for result in results] == [0, 0], results[1].err
    # Only the lead process prints.
    assert [result.out.count("'folder'") for result in results] == [6, 0]
    return alone, job


@pytest.mark.slow
@pytest.mark.parametrize("name", MADE)
def test_a_job_makes_what_one_process_makes(made, name):
    one, two = (np.load(folder / f"{name}.npz") for folder in made)
    assert set(one) == set(two)
    for key in one:
        np.testing.assert_array_equal(two[key], one[key], err_msg=key)
    assert all((folder / f"{name}.png").is_file() for folder in made)
