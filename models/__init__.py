"""Networks: Flax Linen modules called as `module.apply(variables, x, cond, train=False)`."""

from models.ddpm import DDPM
from models.mlp import MLP
from models.ncsn import NCSN
from models.ncsnpp import NCSNpp
from models.ncsnv2 import NCSNv2_64, NCSNv2_128, NCSNv2_256

MODELS = {
    "ncsnpp": NCSNpp,
    "ddpm": DDPM,
    "ncsnv2_64": NCSNv2_64,
    "ncsnv2_128": NCSNv2_128,
    "ncsnv2_256": NCSNv2_256,
    "ncsn": NCSN,
    "mlp": MLP,
}
