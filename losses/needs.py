"""What a loss needs of a run besides its section, declared at its constructor.

    @needs(teachers=("teacher",), players=("critic",), second=True)
    def some_loss(path, network, teacher, critic, *, weight: float = 1.0): ...

The names of teachers and players are arguments of the constructor, and names in `others`, which
holds their parameters. `builders/` reads the declaration, refuses a config that lacks one of these,
and gives the constructor:

- `teacher(params) -> PredictFn`, the network of an earlier run, which is not trained. The key
  `loss.<name>.teacher` names its workdir, and `others["teacher"]` holds its averaged parameters.
- `critic(params, x, cond, dropout_key) -> output`, a network that is trained beside the main one,
  with the section `players.critic`. The constructor then returns a loss for each,
  `{MAIN: ..., "critic": ...}`, and each loss finds the others' newest parameters in `others`.
- `batch["x1"]`, the second ends of pairs: those of the data, or of the section `data2`.
"""

from collections.abc import Callable
from typing import NamedTuple

# The name of the network that is sampled from, in the `others` of another player's loss.
MAIN = "main"


class Needs(NamedTuple):
    """`trains`: the key in `models.TABLES` of the networks that the loss trains. `teachers` and
    `players`: names of further networks. `second`: whether a batch is to hold `x1`."""

    trains: str = "models"
    teachers: tuple[str, ...] = ()
    players: tuple[str, ...] = ()
    second: bool = False


def needs(**declared) -> Callable[[Callable], Callable]:
    """A decorator of loss constructors; its keywords are the fields of `Needs`."""

    def declare(make: Callable) -> Callable:
        make.needs = Needs(**declared)
        return make

    return declare


def needs_of(make: Callable) -> Needs:
    """What a constructor has declared; without a declaration a loss needs nothing more."""
    return getattr(make, "needs", Needs())
