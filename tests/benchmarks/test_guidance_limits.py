"""The benchmark of limits on problems with a known answer."""

from itertools import islice

import pytest

from benchmarks.guidance import limits as guidance_limits
from benchmarks.guidance.problem import LAW, problems

pytestmark = pytest.mark.usefixtures("x64")


def test_errors_of_an_ensemble_fall_with_its_size(monkeypatch):
    """On the plane the errors fall as `1 / sqrt(particles)`, so 16 times as many particles divide
    them by 4. The median of 25 runs is known to a sixth."""
    plane = list(islice(problems(), 1))
    monkeypatch.setattr(guidance_limits, "problems", lambda: iter(plane))
    monkeypatch.setattr(guidance_limits, "PARTICLES", (100, 1600))
    monkeypatch.setattr(guidance_limits, "RUNS", 25)
    monkeypatch.setattr(guidance_limits, "ENSEMBLE_STEPS", 100)
    few, many = guidance_limits.ensembles()
    assert few["error_mean"] / many["error_mean"] == pytest.approx(4.0, rel=0.4)
    assert few["error_cov"] / many["error_cov"] == pytest.approx(4.0, rel=0.4)
    assert many["error_mean"] < 0.1 and many["nfe"] == 400


def test_the_exact_classifier_gives_the_component():
    mixture = next(problem for problem in problems() if not problem.gaussian)
    assert guidance_limits.score_error(LAW, mixture.data) < 1e-12
    # A classifier of data with other covariances gives another score.
    other = mixture.data._replace(covs=1.1 * mixture.data.covs)
    guide = guidance_limits.logits_fn
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(guidance_limits, "logits_fn", lambda law, data: guide(law, other))
        assert guidance_limits.score_error(LAW, mixture.data) > 1e-3
