"""The table of a report: every figure with its reference beside it."""

from typing import Any

from evaluation.page import Row


def figure_rows(report: dict[str, Any]) -> list[Row]:
    """Rows for the page, from a report as `evaluate` builds it; absent parts give no rows."""
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
    for space in report.get("spaces", []):
        for metric, label in (("frechet", "Fréchet distance"), ("kid", "KID"), ("mmd", "MMD²")):
            found = space[metric]
            for other, name in (
                ("mixture", "mixture's samples"),
                ("train", "floor: training images"),
            ):
                if f"{other}_test" in found:
                    rows.append(
                        Row(
                            f"{label} to test, {space['name']}",
                            found["samples_test"],
                            found["samples_test_stderr"],
                            found[f"{other}_test"],
                            name,
                            "lower",
                        )
                    )
    if "eval_loss" in report:
        rows.append(Row("Loss on test, fixed draws", report["eval_loss"]))
    for key, label in (("sampling", "a sample"), ("likelihood", "a likelihood")):
        if key in report["nfe"]:
            rows.append(Row(f"Network evaluations for {label}", report["nfe"][key]))
    for key, value in report["seconds"].items():
        rows.append(Row(f"Seconds, {key}", value))
    return rows
