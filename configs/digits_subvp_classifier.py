"""A classifier of noisy digits, to guide a model of `digits_subvp.py`.

python main.py --config configs/digits_subvp_classifier.py --workdir runs/classifier_subvp \\
    --mode train
python main.py --config configs/digits_subvp.py --workdir runs/digits_subvp --mode sample \\
    --config.guidance.method=classifier --config.guidance.classifier=runs/classifier_subvp
"""

from configs.digits import digits_classifier


def get_config():
    return digits_classifier("subvp")
