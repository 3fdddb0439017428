"""The peers of `benchmarks.speed.train_step`, in PyTorch: diffusers' DDPM and score-models' NCSN++.

Each part is in PyTorch's fastest form: the network runs in the faster of two memory layouts
(channels first, channels last), Adam is fused, and clipping and average treat all parameters at
once.
"""

import argparse
import math
import resource
import time
from collections.abc import Callable
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.speed.taps import taps_inside
from benchmarks.speed.worker import clock, serve

SHAPE = (3, 32, 32)
LAYOUTS = (torch.contiguous_format, torch.channels_last)


def ddpm() -> torch.nn.Module:
    """Return DDPM with the options of google/ddpm-cifar10-32."""
    from diffusers import UNet2DModel

    plain = "DownBlock2D", "UpBlock2D"
    return UNet2DModel(
        sample_size=32,
        block_out_channels=(128, 256, 256, 256),
        layers_per_block=2,
        down_block_types=(plain[0], "AttnDownBlock2D", plain[0], plain[0]),
        up_block_types=(plain[1], plain[1], "AttnUpBlock2D", plain[1]),
        attention_head_dim=None,
        norm_eps=1e-6,
        downsample_padding=0,
        flip_sin_to_cos=False,
        freq_shift=1,
        dropout=0.1,
    )


def ncsnpp() -> torch.nn.Module:
    """Return a network as near to the continuous NCSN++ of CIFAR-10 as score-models' options allow.

    It has attention only in the middle.
    """
    from score_models.architectures.ncsnpp import NCSNpp

    return NCSNpp(
        channels=3,
        nf=128,
        ch_mult=(1, 2, 2, 2),
        num_res_blocks=4,
        dropout=0.1,
        progressive="none",
        progressive_input="residual",
        init_scale=1e-10,  # almost 0; ours does the same
    )


PEERS = {
    "ddpm": ("diffusers", ddpm, lambda net, x, t: net(x, 999 * t).sample),
    "ncsnpp": ("score-models", ncsnpp, lambda net, x, t: net(t, x)),
}


class Step:
    """A training step of the noise-prediction loss under the VP law."""

    def __init__(self, network: str, batch: int, layout: torch.memory_format):
        torch.manual_seed(0)
        _, build, self.call = PEERS[network]
        self.net = build().to(memory_format=layout).train()
        self.parameters = list(self.net.parameters())
        self.average = [p.detach().clone() for p in self.parameters]
        self.adam = torch.optim.Adam(self.parameters, lr=2e-4, fused=True)
        self.x = torch.rand(batch, *SHAPE).to(memory_format=layout) * 2 - 1

    def __call__(self) -> None:
        t = torch.rand(len(self.x)) * (1 - 1e-5) + 1e-5
        log_a = (-0.25 * t**2 * 19.9 - 0.5 * t * 0.1)[:, None, None, None]
        z = torch.randn_like(self.x)
        noised = log_a.exp() * self.x + (-torch.expm1(2 * log_a)).sqrt() * z
        loss = ((self.call(self.net, noised, t) - z) ** 2).mean()
        self.adam.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.adam.step()
        with torch.no_grad():
            torch._foreach_lerp_(self.average, self.parameters, 1e-4)

    def forward(self) -> None:
        with torch.inference_mode():
            self.call(self.net.eval(), self.x, torch.full((len(self.x),), 0.5))
        self.net.train()


def make(network: str, batch: int) -> tuple[dict[str, Any], dict[str, Callable]]:
    """Return the facts about the step, and the measurements that can be requested."""
    begin = time.perf_counter()
    steps = [Step(network, batch, layout) for layout in LAYOUTS]
    first = time.perf_counter() - begin
    for step in steps:
        step()
    step = min(steps, key=lambda s: sorted(seconds_of(s) for _ in range(3))[1])
    layout = LAYOUTS[steps.index(step)]
    del steps
    a = torch.randn(3072, 3072)
    name = "channels last" if layout == torch.channels_last else "channels first"
    facts = {
        "implementation": f"{PEERS[network][0]}, {name}",
        "parameters": sum(p.numel() for p in step.parameters),
        "gflop": 3 * forward_work(step),
        "compile_s": first,  # nothing is compiled; this is the time to build the network
    }
    return facts, {
        "step": lambda: seconds_of(step),
        "forward": lambda: seconds_of(step.forward),
        "matmul": lambda: 2e-9 * len(a) ** 3 / seconds_of(lambda: a @ a),
        "peak": peak_mib,
    }


def forward_work(step: Step) -> float:
    """Return the GFLOP of a forward pass, counted as in `benchmarks.speed.work`."""
    with FlopCounterMode(display=False, custom_mapping=COUNTED) as counter:
        step.forward()
    return counter.get_total_flops() / 1e9


def of_convolution(image, kernel, bias, stride, padding, dilation, transposed, *_, out_shape, **__):
    """Return the operations of a convolution without its padding; 0 for FIR filters (1 channel)."""
    if transposed or set(dilation) != {1}:
        raise ValueError("Transposed and dilated convolutions are not counted.")
    axes = zip(image[2:], out_shape[2:], kernel[2:], stride, padding)
    inside = math.prod(taps_inside(*axis) for axis in axes)
    return 2 * out_shape[0] * out_shape[1] * kernel[1] * inside if kernel[1] > 1 else 0


def of_attention(q, k, v, *_, **__):
    return 4 * math.prod(q) * k[-2]


COUNTED = {
    torch.ops.aten.convolution: of_convolution,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: of_attention,
}


def peak_mib() -> float:
    """Return the largest resident memory that this process has had, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def seconds_of(call: Callable[[], Any]) -> float:
    begin = clock()
    call()
    return clock() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", choices=PEERS, required=True)
    parser.add_argument("--batch", type=int, required=True)
    args = parser.parse_args()
    serve(*make(args.network, args.batch))


if __name__ == "__main__":
    main()
