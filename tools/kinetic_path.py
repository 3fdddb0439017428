"""Write the table of the kinetic-optimal law (`sde.table`, `sde.name = "kinetic"`) for some data.

    python -m tools.kinetic_path --config configs/digits_vp.py --out configs/paths/digits.json
                                 [--examples 50000] [--draws 10000] [--nodes 64] [--seed 0]

The command estimates gamma (exact/separation.py) on the training split of the config, scaled and
dequantised as the network sees it. It writes theta, gamma, the standard error of gamma and the
scale of the data as JSON. Building a config solves the path from these numbers. The time of the
estimate grows with examples x draws.
"""

import argparse
import json
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from builders.places import place
from builders.sources import build_data
from data import Scaler
from exact.separation import Separation, estimate
from sde_lib.kinetic import Kinetic
from tools.describe import load
from whole_files import put


def training_data(config: ConfigDict, examples: int, seed: int) -> np.ndarray:
    """Return the first `examples` training examples as the network sees them: (n, ...) float32."""
    train, _ = build_data(config.data)
    scaler = Scaler(train.levels, config.data.centered, config.data.uniform_dequantization)
    raw = train.fetch(np.arange(min(examples, train.size)))
    return np.asarray(scaler.to_model(jax.random.key(seed), jnp.asarray(raw)))


def table(found: Separation, law: Kinetic, **made_from) -> dict:
    """Return the content of the file: the numbers to eight digits, and how they were made."""
    numbers = {key: [float(f"{v:.8g}") for v in getattr(found, key)] for key in found._fields[:3]}
    length = law.table.length
    return {
        **made_from,
        "length": round(length, 6),
        "energy": round(4.0 * np.sin(length / 2) ** 2, 6),
        "scale": float(f"{found.scale:.8g}"),
        **numbers,
    }


def write(path: Path, content: dict) -> None:
    """Write JSON with one key per line, so that a diff of two tables is readable."""
    lines = [f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in content.items()]
    path.parent.mkdir(parents=True, exist_ok=True)
    put(path, "{\n" + ",\n".join(lines) + "\n}\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--config", type=place, required=True, help="a config file, for its data")
    parser.add_argument("--out", type=place, required=True, help="the JSON file to write")
    parser.add_argument("--examples", type=int, default=50_000, help="at most")
    parser.add_argument("--draws", type=int, default=10_000, help="pairs of an example and a noise")
    parser.add_argument("--nodes", type=int, default=64, help="angles between no noise and all")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    try:
        config = load(given.config)
        data, begin = training_data(config, given.examples, given.seed), time.perf_counter()
        found = estimate(data, given.nodes, given.draws, given.seed)
        law = Kinetic.from_gamma(*found[:2], found.scale)
    except (ValueError, FileNotFoundError) as error:
        raise SystemExit(str(error)) from None
    made_from = {"data": f"{config.data.dataset} train", "examples": len(data)}
    content = table(found, law, **made_from, draws=given.draws, seed=given.seed)
    write(given.out, content)
    print(
        f"{given.out}: {len(data)} examples, {time.perf_counter() - begin:.1f} s; L = "
        f"{content['length']}, energy {content['energy']} (2 for the straight path of data that "
        f"stay apart), gamma within {found.stderr.max():.1g}."
    )


if __name__ == "__main__":
    main()
