"""The table of a report: a row for every figure, with its reference."""

from typing import Any

from evaluation.report.page import Row


def figure_rows(report: dict[str, Any]) -> list[Row]:
    """Return the rows of the page for a report of `evaluate`; absent parts give no rows."""
    rows = []
    if "bits_per_dim" in report:
        bits = report["bits_per_dim"]
        rows.append(
            Row(
                f"Bits per dimension, {bits['split']}",
                bits["mean"],
                bits["stderr"],
                bits.get("mixture"),
                f"Gaussian mixture, {bits['mixture_form']}" if "mixture" in bits else "",
                "lower",
            )
        )
        for more in bits.get("bounds", {}).values():
            label = f"Bits per dimension, {bits['split']}, {more['bound']}"
            value = bits["mean"]
            rows.append(Row(label, more["mean"], more["stderr"], value, "by the flow", "lower"))
        if bits.get("failed"):
            rows.append(Row("Solves that failed, left out of bits per dimension", bits["failed"]))
    for level in report.get("classifier", []):
        label = f"Accuracy on test at noise level {level['sigma']:g}"
        rows.append(Row(label, level["accuracy"], level["stderr"]))
    if "noise_level" in report:
        told, name = report["noise_level"], "a uniform guess"
        label = "Cross-entropy of the noise level on test, nats"
        rows.append(Row(label, told["cross_entropy"], None, told["uniform"], name, "lower"))
        rows.append(Row("Error of log sigma on test, RMS", told["log_sigma_error"]))
    for space in report.get("spaces", []):
        rows += space_rows(space)
    if "eval_loss" in report:
        rows.append(Row("Loss on test, fixed draws", report["eval_loss"]))
    for key, label in (("sampling", "a sample"), ("likelihood", "a likelihood")):
        if key in report["nfe"]:
            rows.append(Row(f"Network evaluations for {label}", report["nfe"][key]))
    for key, value in report["seconds"].items():
        rows.append(Row(f"Seconds, {key}", value))
    return rows


# By section of a space: the label of its row, and the direction that is better.
AGAINST = {
    "frechet": ("Fréchet distance to {}", "lower"),
    "fid_infinity": ("Fréchet distance to {} without bias in n", "lower"),
    "kid": ("KID to {}", "lower"),
    "mmd": ("MMD² to {}", "lower"),
    "sliced_wasserstein": ("Sliced Wasserstein distance to {}", "lower"),
    "precision": ("Precision", "higher"),
    "recall": ("Recall", "higher"),
    "density": ("Density", "higher"),
    "coverage": ("Coverage", "higher"),
}
# Labels of the references, by the name of the set of images. Real images that serve as a floor are
# of the split that is not the reference.
BESIDE = {
    "mixture": "mixture's samples",
    "train": "floor: training images",
    "test": "floor: test images",
}
SPLITS = {"train": "training images", "test": "test images"}


def space_rows(space: dict[str, Any]) -> list[Row]:
    """The rows of one feature space: each metric with the baseline, and again with the value of
    real images."""
    rows, split = [], space.get("reference", "test")
    to = "test" if split == "test" else "training images"
    for metric, (label, better) in AGAINST.items():
        found = space.get(metric, {})
        for other, name in BESIDE.items():
            if f"{other}_{split}" in found:
                value, stderr = found[f"samples_{split}"], found[f"samples_{split}_stderr"]
                title = f"{label.format(to)}, {space['name']}"
                rows.append(Row(title, value, stderr, found[f"{other}_{split}"], name, better))
    if "inception_score" in space:
        found, title = space["inception_score"], f"Inception score, {space['name']}"
        value, stderr = found["samples"], found["samples_stderr"]
        rows.append(Row(title, value, stderr, found[split], SPLITS[split], "higher"))
    if "statistics" in space:
        found, title = space["statistics"], f"Fréchet distance to the statistics, {space['name']}"
        value, stderr = found["samples"], found["samples_stderr"]
        other = "train" if "train" in found else "test"
        rows.append(Row(title, value, stderr, found[other], SPLITS[other], "lower"))
    return rows
