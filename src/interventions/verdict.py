"""Is an intervention worth it? One sentence and a colour, from runs paired by seed."""

import csv
from dataclasses import astuple, dataclass, fields
from pathlib import Path

import numpy as np
from scipy import stats

from ..runtime.errors import UserError
from ..runtime.files import write_csv
from .comparison import CONFIDENCE, FAILURES, PLACEBO, REST, paired_interval

GREEN, AMBER, RED = COLOURS = ("green", "amber", "red")
MOST_SEEDS = 1000


@dataclass(frozen=True)
class Verdict:
    """What is said of an intervention.

    Attributes:
        colour: "green" (better), "amber" (it can't be told, or no better than random images) or "red" (worse).
        sentence: for people, without a full stop.
    """

    colour: str
    sentence: str


def judge(after, before, random=None, placebo=None):
    """The verdict on an intervention.

    Args:
        after, before: dict measure -> float (seeds,), accuracies of the intervention and of the base: "failures" (the
            images of confirmed failures, on images that chose nothing), "rest" and "overall"; paired by seed.
        random: the same with random choices in place of the failures', or None; none where the intervention is random.
        placebo: the same of the base trained anew with another seed, or None. A failure is partly that one training's,
            so that any other does better there.

    Returns:
        `Verdict`. Each interval is of Student's t at 95 %; NaN seeds (no such image) are left out.
    """
    changes = {name: _change(after[name], before[name]) for name in ("failures", "rest", "overall") if name in after}
    seeds = len(changes["failures"].values)
    worse = {name: change for name, change in changes.items() if change.high < 0}
    if worse:
        where = " and ".join(f"{_WHERE[name]} ({change})" for name, change in worse.items())
        return Verdict(RED, f"worse {where}: don't use it")
    if seeds < 2:
        return Verdict(AMBER, "one seed can't tell a gain from chance: give several with --seeds")
    on_failures = changes["failures"]
    if not on_failures.low > 0:
        return Verdict(AMBER, f"no gain that these {seeds} seeds can show ({on_failures}); {_more(on_failures.values)}")
    for control, what in ((random, "as many random images"), (placebo, "the base trained anew with another seed")):
        if control is None:
            continue
        against = _change(after["failures"], control["failures"])
        if not against.low > 0:
            return Verdict(
                AMBER,
                f"better where it failed ({on_failures}), but no better than {what} that these {seeds} seeds can show "
                f"({against}); {_more(against.values)}",
            )
    return Verdict(GREEN, f"better where it failed ({on_failures}), no worse elsewhere ({changes['rest']})")


def judge_runs(accuracies):
    """The verdict on each run but the base and the placebo: dict name -> `Verdict`.

    Random choices are those of the run whose name is that of the judged run with `random` for what chose. Where neither
    these nor a placebo are there to compare with, none is green. Empty where no failure is confirmed.

    Args:
        accuracies: dict run -> list over seeds of what `comparison.measure` gives, the base's first.
    """
    base, *others = accuracies
    columns = {
        name: {what: np.array([one.get(what, np.nan) for one in by_seed]) for what in (FAILURES, REST, "overall")}
        for name, by_seed in accuracies.items()
    }
    verdicts = {}
    for name in others:
        if name == PLACEBO or np.isnan(columns[name][FAILURES]).all():
            continue
        random = next((other for other in others if other != name and other in _random_names(name)), None)
        verdict = judge(columns[name], columns[base], random and columns[random], columns.get(PLACEBO))
        if verdict.colour == GREEN and random is None and PLACEBO not in columns:
            verdict = Verdict(AMBER, f"{verdict.sentence}, {NO_CONTROL}")
        verdicts[name] = verdict
    return verdicts


NO_CONTROL = (
    "but any other training may do better there: compare with the base trained anew with another seed (--placebo), or "
    "with random choices"
)


def _random_names(name):
    """What a run of random choices is called beside the run `name`: one of its words is "random" in its place."""
    words = name.split("_")
    return {"_".join([*words[:i], "random", *words[i + 1 :]]) for i in range(len(words))}


def save_verdicts(path, verdicts):
    """Write dict name -> `Verdict` as CSV."""
    header = ["name", *(field.name for field in fields(Verdict))]
    write_csv(path, header, [[name, *astuple(verdict)] for name, verdict in verdicts.items()])


def load_verdicts(path):
    """The dict name -> `Verdict` that `save_verdicts` wrote; empty where there is no file.

    Raises:
        UserError: it is another file.
    """
    if not Path(path).is_file():
        return {}
    try:
        with open(path, newline="", encoding="utf-8") as stream:
            found = {row["name"]: Verdict(row["colour"], row["sentence"]) for row in csv.DictReader(stream)}
    except (UnicodeDecodeError, csv.Error, KeyError, TypeError):
        found = {"": Verdict("", "")}
    if any(verdict.colour not in COLOURS for verdict in found.values()):
        raise UserError(f"{path} holds no verdicts; make it with failure-directions compare")
    return found


_WHERE = {"failures": "where it failed", "rest": "elsewhere", "overall": "overall"}


@dataclass(frozen=True)
class _Change:
    values: np.ndarray
    mean: float
    low: float
    high: float

    def __str__(self):
        interval = f" [{_short(self.low)}, {_short(self.high)}]" if self.low == self.low else ""
        return f"{self.mean:+.3f}{interval}".replace("0.", ".", 1)


def _short(value):
    return f"{value:.3f}".replace("0.", ".", 1)


def _change(after, before):
    after, before = np.asarray(after, float), np.asarray(before, float)
    there = np.isfinite(after - before)
    values = (after - before)[there]
    low, high = paired_interval(after[there], before[there])
    return _Change(values, float(values.mean()) if len(values) else float("nan"), low, high)


def _more(differences):
    """How many seeds would show a gain of this size, in words."""
    needed = seeds_needed(float(np.mean(differences)), float(np.std(differences, ddof=1)))
    return "nor is one in sight" if needed is None else f"about {needed} would"


def seeds_needed(mean, deviation):
    """The fewest seeds whose 95 % interval would exclude 0, if mean and deviation stay; None for none up to 1,000."""
    if not mean > 0:
        return None
    for seeds in range(2, MOST_SEEDS + 1):
        if stats.t.ppf((1 + CONFIDENCE) / 2, seeds - 1) * deviation / seeds**0.5 < mean:
            return seeds
    return None
