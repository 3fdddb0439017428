"""The report page, read back with a parser, is self-contained, escaped and complete."""

import base64
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from evaluation.report.page import Row, number, render, verdict, write_page
from evaluation.report.pictures import grid, save_png

VOID = {"meta", "img", "br", "link", "input", "hr"}
METRICS = [{"step": k, "loss": 1 / k} for k in range(1, 9)]


class Page(HTMLParser):
    """The tags with their attributes and the text by tag. Asserts that tags close in order."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.open, self.texts = [], [], []
        self.feed(html)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append((self.open[-1] if self.open else "", data))

    def text(self):
        return " ".join(data for tag, data in self.texts if tag != "style")

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def png(tmp_path, name="a.png", seed=0):
    save_png(tmp_path / name, grid(np.random.default_rng(seed).random((4, 8, 8, 1))))
    return tmp_path / name


def full_report():
    return {
        "name": "vp_digits",
        "facts": {"step": 20000, "parameters": 1234567, "seed": 3},
        "rows": [
            Row("bits per dimension", 2.43123, 0.0274, 2.5642, "mixture of Gaussians", "lower"),
            Row("network evaluations", 250),
        ],
        "notes": ["few samples"],
        "config": {"sde": {"name": "vp", "beta": {"max": 20.5}}, "seed": 3, "empty": {}},
    }


def test_needs_nothing_beside_it(tmp_path):
    """No tag and no style reaches outside the file."""
    pictures = {"samples": png(tmp_path), "real": png(tmp_path).read_bytes()}
    write_page(tmp_path / "report.html", full_report(), pictures, METRICS)
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    page = Page(html)
    assert not {"script", "link", "iframe", "object", "base"} & {tag for tag, _ in page.tags}
    for _, attributes in page.tags:
        assert "href" not in attributes and "srcset" not in attributes
        assert attributes.get("src", "data:image/").startswith("data:image/")
        assert not [name for name in attributes if name.startswith("on")]
    style = "".join(data for tag, data in page.texts if tag == "style")
    assert "url(" not in style and "@import" not in style
    assert style.count("{") == style.count("}") > 20
    assert "prefers-color-scheme: dark" in style
    assert any(meta.get("name") == "viewport" for meta in page.all("meta"))


def test_pictures_are_inside_unchanged_and_in_order(tmp_path):
    files = {
        key: png(tmp_path, f"{key}.png", seed)
        for seed, key in enumerate(["after_training", "trajectory", "real", "samples"])
    }
    page = Page(render({"name": "x"}, files, METRICS))
    images = page.all("img")
    assert [image["alt"] for image in images] == [
        "Samples of the model",
        "Real test images",
        "From noise to data",
        "Loss",
        "After training",
    ]
    sources = [image["src"].split(";base64,") for image in images]
    assert sources[3][0] == "data:image/svg+xml"
    for key, index in (("samples", 0), ("real", 1), ("trajectory", 2), ("after_training", 4)):
        assert sources[index][0] == "data:image/png"
        assert base64.b64decode(sources[index][1]) == files[key].read_bytes()


def test_every_figure_stands_beside_its_reference():
    text = Page(render(full_report(), {}, METRICS)).text()
    for words in (
        r"vp_digits",
        r"step\s+20\u202f000",
        r"parameters\s+1\u202f234\u202f567",
        r"seed\s+3",
        r"bits per dimension\s+↓ lower is better\s+2\.431\s+± 0\.027\s+ahead\s+2\.564\s+mixture of",
        r"network evaluations\s+250\s+—",
        r"few samples",
        r"sde\.name\s+'vp'\s+sde\.beta\.max\s+20\.5\s+seed\s+3\s+empty\s+{}",
    ):
        assert re.search(words, text), words


def test_config_is_folded():
    page = Page(render(full_report(), {}, METRICS))
    assert page.all("details") == [{}]


def test_text_from_outside_is_escaped():
    """Every string of a report is escaped; here each has a tag and a quote."""
    bad = '"><script>x</script>&amp;'
    report = {
        "name": bad,
        "facts": {bad: bad},
        "rows": [Row(bad, 1.0, None, 2.0, bad)],
        "notes": [bad],
        "config": {bad: bad, "a": {bad: 1}},
    }
    page = Page(render(report, {bad: b"<svg></svg>"}, []))
    assert not page.all("script")
    # The places: title, h1, fact (2), row (2), note, config (3, of which one is a repr), and the
    # heading of a picture.
    assert page.text().count("<script>x</script>") == 11
    assert page.all("img")[0]["alt"] == bad.capitalize()


@pytest.mark.parametrize(
    ("value", "stderr", "reference", "better", "standing"),
    [
        (1.0, 0.1, 1.5, "lower", "ahead"),
        (2.0, 0.1, 1.5, "lower", "behind"),
        (2.0, 0.1, 1.5, "higher", "ahead"),
        (1.0, 0.1, 1.5, "higher", "behind"),
        (1.35, 0.1, 1.5, "lower", "level"),
        (1.5, None, 1.5, "lower", "level"),
        (1.49, None, 1.5, "lower", "ahead"),
        (1.0, 0.1, 1.5, None, ""),
        (1.0, 0.1, None, "lower", ""),
        (float("nan"), 0.1, 1.5, "lower", "behind"),
        (float("inf"), None, None, None, "behind"),
        (1.0, float("nan"), 1.5, "lower", ""),
        (1.0, 0.1, float("nan"), "lower", ""),
    ],
)
def test_verdict(value, stderr, reference, better, standing):
    row = Row("x", value, stderr, reference, "y", better)
    assert verdict(row)[0] == standing
    assert "x" in Page(render({"name": "n", "rows": [row]}, {}, [])).text()


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [(2.43123, 3, "2.431"), (0.0001234, None, "0.0001234"), (12.0, 0, "12"), (1.0, 9, "1")],
)
def test_number(value, digits, text):
    assert number(value, digits) == text


def test_a_diverged_run_has_a_page():
    rows = [{"step": 1, "loss": float("nan")}]
    assert not Page(render({"name": "x"}, {}, rows)).all("img")


def test_refusals(tmp_path):
    with pytest.raises(ValueError, match="'name'"):
        render({"title": "x"}, {}, [])
    with pytest.raises(ValueError, match=r"'samples'.*PNG"):
        render({"name": "x"}, {"samples": b"GIF89a"}, [])
    with pytest.raises(ValueError, match="'smaller'"):
        render({"name": "x", "rows": [Row("r", 1.0, better="smaller")]}, {}, [])
