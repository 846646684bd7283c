"""What repairs have cost: images looked at, labels used, seconds."""

from dataclasses import dataclass
from pathlib import Path

from ..runtime.errors import UserError
from ..runtime.files import read_rows, write_rows


@dataclass(frozen=True)
class Cost:
    """The cost of a run with one seed, beside its base model's and the images that found and confirmed its failures.

    Attributes:
        name: of the run.
        seed: of the run.
        images: how many without a label were looked at to choose among, or generated.
        labels: how many labels the chosen images take.
        seconds: of choosing and training.
    """

    name: str
    seed: int
    images: float
    labels: float
    seconds: float

    def __str__(self):
        return f"{self.images:,.0f} images looked at, {self.labels:,.0f} labels used, {self.seconds:,.0f} s"


def mean_costs(costs, names, seeds):
    """dict name -> the mean `Cost` over these seeds, of the runs for which that of every seed is known."""
    found = {(one.name, one.seed): one for one in costs}
    means = {}
    for name in names:
        of = [found[name, seed] for seed in seeds if (name, seed) in found]
        if of and len(of) == len(seeds):
            means[name] = Cost(
                name, of[0].seed, *(sum(getattr(one, what) for one in of) / len(of) for what in _AVERAGED)
            )
    return means


_AVERAGED = ("images", "labels", "seconds")


def save_costs(path, costs):
    """Write a list of `Cost` as CSV."""
    write_rows(path, Cost, costs)


def load_costs(path):
    """The list of `Cost` that `save_costs` wrote; empty where there is no file.

    Raises:
        UserError: it is another file.
    """
    if not Path(path).is_file():
        return []
    try:
        return read_rows(path, Cost)
    except ValueError:
        raise UserError(f"{path} holds no costs of repairs; remove it, or name another folder") from None
