"""The report of a run as one self-contained HTML file, without scripts or links."""

import base64
import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

from flax.traverse_util import empty_node, flatten_dict

from evaluation.report.page_style import PAGE, STYLE
from evaluation.report.pictures import SERIES, loss_curve, series
from whole_files import put

CAPTIONS = {
    "samples": "Samples of the model",
    "real": "Real test images",
    "trajectory": "From noise to data",
    "loss": "Loss",
}


class Row(NamedTuple):
    """One measured figure and the reference with which it is compared.

    `better` is "lower", "higher" or None (neither); `stderr` and `reference` may be None.
    """

    name: str
    value: float
    stderr: float | None = None
    reference: float | None = None
    reference_name: str = ""
    better: str | None = None


def write_page(
    path: str | Path,
    report: Mapping,
    pictures: Mapping[str, bytes | str | Path],
    metrics: Sequence[Mapping],
) -> None:
    """Write the report page.

    Args:
        path: the HTML file to write; its folder exists.
        report: `name` (title) and, each optional, `facts` (label to value, e.g. step, parameters,
            seed), `rows` (list of `Row`), `notes` (list of sentences), `config` (nested dict).
        pictures: PNG, JPEG or SVG, as bytes or as a path. "samples" and "real" stand side by side,
            "trajectory" and "loss" have their own sections, others follow under their key.
        metrics: rows for the loss curve (see `pictures.loss_curve`); may be empty. A picture named
            "loss" replaces this curve.

    Raises:
        ValueError: the report has no name, `better` of a row is unknown, or a picture has an
            unknown format.
    """
    put(path, render(report, pictures, metrics))


def render(report: Mapping, pictures: Mapping, metrics: Sequence[Mapping]) -> str:
    """Return the page as text; arguments and errors as in `write_page`."""
    if not report.get("name"):
        raise ValueError(
            f"the report has the keys {sorted(report)}; the page needs a 'name' for its title: "
            "pass the name of the config"
        )
    shown = dict(pictures)
    # A run that diverged at once has no finite loss; its page is written without a curve.
    if "loss" not in shown and any(len(series(metrics, key)[0]) for key in SERIES):
        shown["loss"] = loss_curve(metrics)
    pair = [figure(key, shown.pop(key)) for key in ("samples", "real") if key in shown]
    rest = [section(caption(key), figure(key, shown[key])) for key in order(shown)]
    name = escape(str(report["name"]))
    return PAGE.format(
        style=STYLE,
        name=name,
        facts=facts(report.get("facts", {})),
        figures=section("Figures", table(report["rows"])) if report.get("rows") else "",
        notes="".join(f"<p class=note>{escape(str(note))}</p>" for note in report.get("notes", [])),
        pair=f'<section class="pair">{"".join(pair)}</section>' if pair else "",
        rest="".join(rest),
        config=config_details(report["config"]) if report.get("config") else "",
    )


def order(pictures: Mapping) -> list[str]:
    known = [key for key in CAPTIONS if key in pictures]
    return known + [key for key in pictures if key not in CAPTIONS]


def caption(key: str) -> str:
    return CAPTIONS.get(key, key.replace("_", " ").capitalize())


def section(title: str, body: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{body}</section>"


def facts(values: Mapping) -> str:
    items = "".join(
        f"<div><dt>{escape(str(key))}</dt><dd>{escape(plain(value))}</dd></div>"
        for key, value in values.items()
    )
    return f"<dl>{items}</dl>" if items else ""


def table(rows: Sequence[Row]) -> str:
    """The table of figures; on a narrow screen every row becomes a card."""
    head = "".join(f"<th scope=col>{title}</th>" for title in ("Figure", "Value", "Reference"))
    body = []
    for row in rows:
        standing, words = verdict(row)
        badge = f'<span class="badge {standing}">{words}</span>' if words else ""
        arrow = {"lower": "↓ lower is better", "higher": "↑ higher is better"}.get(row.better, "")
        digits = decimals(row)
        value = number(row.value, digits)
        error = "" if row.stderr is None else f" <small>± {number(row.stderr, digits)}</small>"
        against = "—" if row.reference is None else number(row.reference, digits)
        body.append(
            f"<tr><th scope=row>{escape(row.name)}<small>{arrow}</small></th>"
            f'<td data-label="Value"><span class=number>{value}{error}</span>{badge}</td>'
            f'<td data-label="Reference"><span class=number>{against}</span>'
            f"<small>{escape(row.reference_name)}</small></td></tr>"
        )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>"


def verdict(row: Row) -> tuple[str, str]:
    """CSS class and words for the value against its reference; ("", "") if they do not compare.

    A difference within two standard errors counts as level.

    Raises:
        ValueError: `better` is not "lower", "higher" or None.
    """
    if row.better not in ("lower", "higher", None):
        raise ValueError(
            f"row {row.name!r} has better={row.better!r}; it is 'lower', 'higher' or None: "
            "pass one of these"
        )
    if not math.isfinite(row.value):
        return "behind", "not finite"
    if row.better is None or row.reference is None or not math.isfinite(row.reference):
        return "", ""
    if row.stderr is not None and not math.isfinite(row.stderr):
        return "", ""
    gain = row.value - row.reference if row.better == "higher" else row.reference - row.value
    if abs(gain) <= 2 * (row.stderr or 0.0):
        return "level", "within 2 s.e." if row.stderr else "equal"
    return ("ahead", "ahead") if gain > 0 else ("behind", "behind")


def decimals(row: Row) -> int | None:
    """Decimals that show the standard error to two digits; None lets `number` choose."""
    if row.stderr is None or not math.isfinite(row.stderr) or row.stderr <= 0:
        return None
    return max(0, 1 - math.floor(math.log10(row.stderr)))


def number(value: float, digits: int | None) -> str:
    if not math.isfinite(value):
        return escape(str(float(value)))
    if digits is None or digits > 6:
        return f"{value:.4g}"
    return f"{value:.{digits}f}"


def plain(value) -> str:
    """Format a fact as text; integers from 10,000 on have thin spaces between thousands."""
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}".replace(",", "\u202f") if abs(value) >= 10_000 else str(value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def figure(key: str, picture: bytes | str | Path) -> str:
    """A picture embedded as base64; only the pair "samples", "real" has captions of its own."""
    data = picture if isinstance(picture, bytes) else Path(picture).read_bytes()
    label = escape(caption(key), quote=True)
    text = f"<figcaption>{label}</figcaption>" if key in ("samples", "real") else ""
    source = f"data:{media_type(key, data)};base64,{base64.b64encode(data).decode()}"
    image = f'<img alt="{label}" src="{source}">'
    return f'<figure class="{escape(key, quote=True)}">{text}{image}</figure>'


def media_type(key: str, data: bytes) -> str:
    if data.startswith(b"\x89PNG"):
        return "image/png"
    if data.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if b"<svg" in data[:1000]:
        return "image/svg+xml"
    raise ValueError(
        f"picture {key!r} starts with {data[:8]!r}; the page takes PNG, JPEG or SVG: save it as PNG"
    )


def config_details(config: Mapping) -> str:
    lines = "".join(
        f"<tr><th scope=row>{escape(key)}</th>"
        f"<td>{'{}' if value is empty_node else escape(repr(value))}</td></tr>"
        for key, value in flatten_dict(config, keep_empty_nodes=True, sep=".").items()
    )
    return (
        "<details><summary>Resolved config</summary>"
        f"<table class=config><tbody>{lines}</tbody></table></details>"
    )
