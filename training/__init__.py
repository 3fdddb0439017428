"""The training step, the loop around it, and what a run leaves on disk."""

from training.checkpoint import Checkpoints
from training.loop import train
from training.state import TrainState, create_state
from training.step import make_train_step, scan_steps

__all__ = ["Checkpoints", "TrainState", "create_state", "make_train_step", "scan_steps", "train"]
