"""A classifier of noisy digits, to guide a model of `digits_vp.py`.

python main.py --config configs/digits_vp_classifier.py --workdir runs/classifier_vp \\
    --mode train
python main.py --config configs/digits_vp.py --workdir runs/digits_vp --mode sample \\
    --config.guidance.method=classifier --config.guidance.classifier=runs/classifier_vp
"""

from configs.digits import digits_classifier


def get_config():
    return digits_classifier("vp")
