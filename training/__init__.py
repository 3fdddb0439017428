"""The training step, the training loop, and the files of a run."""

from training.checkpoint import Checkpoints
from training.loop import train
from training.state import TrainState, create_state
from training.step import make_train_step, scan_steps

__all__ = ["Checkpoints", "TrainState", "create_state", "make_train_step", "scan_steps", "train"]
