"""Train the classifier in whose features samples are compared, and write it to a file.

    python -m tools.train_feature_classifier --config configs/fashion_vp.py --out FILE.npz \\
        [--config.data.path=DIR]

The data are those of the config, which need labels. `--mode eval` then reads the classifier with
`--config.eval.classifier=FILE.npz`. Without the file, each evaluation fits the classifier anew: the
result is the same on one machine, but differs in the last digits on another machine.
"""

from pathlib import Path

from absl import app, flags
from ml_collections import ConfigDict

import main as program
from builders.experiment import build
from builders.places import place
from evaluation.report.images import of_source
from evaluation.spaces.feature_classifier import fit, save_classifier, space_of
from evaluation.spaces.features import accuracy

OUT = flags.DEFINE_string("out", None, "The npz file that is written.")


def main(argv: list[str]) -> None:
    """Run the command. Every error ends it with one sentence and exit status 1."""
    if len(argv) > 1:
        raise SystemExit(f"Unexpected argument {argv[1]!r}; options begin with --.")
    try:
        print(train(program.CONFIG.value, place(OUT.value)))
    except (ValueError, OSError) as error:
        raise SystemExit(f"{type(error).__name__}: {' '.join(str(error).split())}") from None


def train(config: ConfigDict, out: Path) -> str:
    """Write the file, and return a line with its feature space and the test accuracy.

    Raises:
        ValueError: the data have no labels.
    """
    experiment = build(config)
    train, test = experiment.train, experiment.test
    if train.labels is None:
        raise ValueError(f"{train.name} has no labels, which a classifier needs; take other data.")
    network = fit(of_source(train).first(train.size), train.labels)
    save_classifier(out, network)
    space = space_of(network)
    right = accuracy(space, of_source(test).first(test.size), test.labels)
    return f"{out}: {space.id}, accuracy on {test.size} test images {right:.4f}"


if __name__ == "__main__":
    flags.FLAGS.set_default("mode", "eval")
    flags.FLAGS.set_default("workdir", ".")
    flags.mark_flag_as_required("out")
    app.run(main, flags_parser=program.parse_flags)
