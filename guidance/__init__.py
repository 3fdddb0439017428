"""Guidance by extra information: functions from prediction function to prediction function.

`CLASS_GUIDES` are for classes. Each is called with `path`, `scale`, its own options, and either a
class-conditional network (`predict`, `null`) or a classifier (`logits`, `label`). `GUIDES` are for
a measurement `y = A x0 + noise_std n`; each is called as
`guide(path, operator, y, noise_std, **options)` and returns a `GuideFn`. Samplers that use the
measurement in their own steps are in `restoration/`.
"""

from guidance.annealed import annealed, redrawn
from guidance.base import GuideFn, by_cond, through_network, with_pullback, with_score
from guidance.cfg import Wanted, classifier_free
from guidance.classifier import classifier_guidance
from guidance.dps import dps, dps_steps
from guidance.energy import energy_guidance
from guidance.mmps import mmps
from guidance.pigdm import pigdm

GUIDES = {"dps": dps, "pigdm": pigdm, "mmps": mmps, "annealed": annealed}
CLASS_GUIDES = {"classifier_free": classifier_free, "classifier": classifier_guidance}

__all__ = [
    "CLASS_GUIDES",
    "GUIDES",
    "GuideFn",
    "Wanted",
    "annealed",
    "by_cond",
    "classifier_free",
    "classifier_guidance",
    "dps",
    "dps_steps",
    "energy_guidance",
    "mmps",
    "pigdm",
    "redrawn",
    "through_network",
    "with_pullback",
    "with_score",
]
