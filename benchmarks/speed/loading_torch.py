"""The peer of `benchmarks.speed.loading`: PyTorch's DataLoader with worker processes."""

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.speed.loading_jax import BATCH, rate
from benchmarks.speed.worker import serve


class Pictures(torch.utils.data.Dataset):
    """The middles of the images of a folder, resized to a square: uint8 (size, size, 3)."""

    def __init__(self, folder: str, size: int):
        self.files, self.size = sorted(Path(folder).iterdir()), size

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, i: int) -> torch.Tensor:
        with Image.open(self.files[i]) as image:
            image = image.convert("RGB")
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        image = image.crop((left, top, left + side, top + side))
        image = image.resize((self.size, self.size), Image.Resampling.LANCZOS)
        return torch.from_numpy(np.array(image))


class Endless(torch.utils.data.Sampler):
    """One permutation of the examples after the other."""

    def __init__(self, size: int):
        self.size = size

    def __iter__(self) -> Iterator[int]:
        while True:
            yield from torch.randperm(self.size).tolist()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", required=True)
    parser.add_argument("--size", type=int, required=True)
    parser.add_argument("--workers", type=int, required=True)
    args = parser.parse_args()
    pictures = Pictures(args.folder, args.size)
    loader = torch.utils.data.DataLoader(
        pictures, batch_size=BATCH, sampler=Endless(len(pictures)), num_workers=args.workers
    )
    batches = iter(loader)
    facts = {"implementation": "DataLoader, processes", "pixels": int(pictures[0].sum())}
    serve(facts, {"load": lambda: rate(batches, args.workers)})


if __name__ == "__main__":
    main()
