"""The laws: how data becomes noise, and what follows from it in closed form.

`SDES` is the table of names that a config may use (`sde.name`). The original code base wrote
`vpsde`, `subvpsde` and `vesde`; these spellings, in any case, mean the same laws.
"""

from sde_lib.affine import AffinePath, Coeffs, check_data_left
from sde_lib.base import SDE, dot, expand, normal_logp, rms, rows, total
from sde_lib.double_well import DoubleWell
from sde_lib.edm import EDM
from sde_lib.flow import Flow
from sde_lib.kinetic import Kinetic
from sde_lib.mean_reverting import MeanReverting, clip_lam, make_mean_reverting
from sde_lib.mean_reverting_given import MeanRevertingGiven, parametrize_given
from sde_lib.noise import example_keys, fold_in, normal_like, several, split
from sde_lib.prediction import KINDS, Prediction, parametrize
from sde_lib.product import Product, make_product
from sde_lib.reverse import flow_drift, reverse_drift
from sde_lib.score_only import score_only
from sde_lib.simulate import simulate
from sde_lib.subvp import SubVP
from sde_lib.two_ended import Ends, TwoEnded
from sde_lib.ve import VE
from sde_lib.vp import VP

SDES = {"vp": VP, "subvp": SubVP, "ve": VE, "edm": EDM, "flow": Flow}
# Laws for given data: `sde.table` names the file of their numbers.
TABLED = {"kinetic": Kinetic.from_file}

__all__ = [
    "EDM",
    "KINDS",
    "SDE",
    "SDES",
    "TABLED",
    "VE",
    "VP",
    "AffinePath",
    "Coeffs",
    "DoubleWell",
    "Ends",
    "Flow",
    "Kinetic",
    "MeanReverting",
    "MeanRevertingGiven",
    "Prediction",
    "Product",
    "SubVP",
    "TwoEnded",
    "check_data_left",
    "clip_lam",
    "dot",
    "example_keys",
    "expand",
    "flow_drift",
    "fold_in",
    "make_mean_reverting",
    "make_product",
    "normal_like",
    "normal_logp",
    "parametrize",
    "parametrize_given",
    "reverse_drift",
    "rms",
    "rows",
    "score_only",
    "several",
    "simulate",
    "split",
    "total",
]
