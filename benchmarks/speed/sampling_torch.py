"""The peer's side of `benchmarks.speed.sampling`: diffusers' DDPM in the loops of its schedulers.

The network runs in the faster of two memory layouts, as in `train_step_torch`.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import torch
from diffusers import DDIMScheduler, DDPMScheduler

from benchmarks.speed.train_step_torch import LAYOUTS, SHAPE, ddpm, peak_mib, seconds_of
from benchmarks.speed.worker import serve

NAMES = {torch.contiguous_format: "channels first", torch.channels_last: "channels last"}


def draw(network: torch.nn.Module, scheduler: Any, x: torch.Tensor) -> torch.Tensor:
    """Sample by a scheduler, with the same loop as diffusers' own pipelines."""
    for t in scheduler.timesteps:
        x = scheduler.step(network(x, t).sample, t, x).prev_sample
    return x


def bare(network: torch.nn.Module, x: torch.Tensor, nfe: int) -> torch.Tensor:
    for _ in range(nfe):
        x = network(x, 500).sample
    return x


def fastest(batch: int) -> tuple[torch.nn.Module, torch.Tensor, str]:
    """Return the network and noise in the memory layout with the fastest call, and its name."""
    found = []
    for layout in LAYOUTS:
        torch.manual_seed(0)
        network = ddpm().to(memory_format=layout).eval()
        x = torch.randn(batch, *SHAPE).to(memory_format=layout)
        bare(network, x, 1)
        seconds = sorted(seconds_of(lambda n=network, x=x: bare(n, x, 1)) for _ in range(3))[1]
        found.append((seconds, network, x, NAMES[layout]))
    return min(found, key=lambda one: one[0])[1:]


def make(batch: int, steps: int) -> tuple[dict[str, Any], dict[str, Callable]]:
    """Return the facts about the samplers, and the measurements that can be requested."""
    begin = time.perf_counter()
    network, x, layout = fastest(batch)
    built = time.perf_counter() - begin
    told, answers = {}, {}
    for make_scheduler in (DDIMScheduler, DDPMScheduler):
        scheduler = make_scheduler(num_train_timesteps=1000)
        scheduler.set_timesteps(steps)
        # Nothing is compiled; this is the time to build the network and to choose its layout.
        told[make_scheduler.__name__] = {"nfe": steps, "compile_s": built}
        answers[make_scheduler.__name__] = lambda s=scheduler: seconds_of(
            lambda: draw(network, s, x)
        )
    answers[f"bare {steps}"] = lambda: seconds_of(lambda: bare(network, x, steps))
    return {"implementation": f"diffusers, {layout}", "loops": told}, {**answers, "peak": peak_mib}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--steps", type=int, required=True)
    args = parser.parse_args()
    with torch.inference_mode():
        serve(*make(args.batch, args.steps))


if __name__ == "__main__":
    main()
