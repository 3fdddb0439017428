"""Networks: Flax Linen modules called as `module.apply(variables, x, cond, train=False)`.

Networks in `MODELS` return an array of the shape of x. `NCSNpp`, `DDPM` and `MLP` with
`num_classes > 0` also take a class, `label=`. Networks in `CLASSIFIERS` return logits of classes,
networks in `NOISE_LEVELS` logits of noise levels.
"""

from models.ddpm import DDPM
from models.mlp import MLP, MLPClassifier
from models.ncsn import NCSN
from models.ncsnpp import NCSNpp
from models.ncsnv2 import NCSNv2_64, NCSNv2_128, NCSNv2_256
from models.noise_level import NoiseLevelCNN, NoiseLevelMLP
from models.wideresnet import WideResNet

MODELS = {
    "ncsnpp": NCSNpp,
    "ddpm": DDPM,
    "ncsnv2_64": NCSNv2_64,
    "ncsnv2_128": NCSNv2_128,
    "ncsnv2_256": NCSNv2_256,
    "ncsn": NCSN,
    "mlp": MLP,
}
CLASSIFIERS = {"wideresnet": WideResNet, "mlp_classifier": MLPClassifier}
NOISE_LEVELS = {"noise_level_mlp": NoiseLevelMLP, "noise_level_cnn": NoiseLevelCNN}
# All tables, by the names with which a loss declares the networks that it trains (`losses.needs`).
TABLES = {"models": MODELS, "classifiers": CLASSIFIERS, "noise_levels": NOISE_LEVELS}
