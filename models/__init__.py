"""Networks: Flax Linen modules called as `module.apply(variables, x, cond, train=False)`."""

from models.mlp import MLP
from models.ncsnpp import NCSNpp

MODELS = {"ncsnpp": NCSNpp, "mlp": MLP}
