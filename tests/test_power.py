"""The command power: what is printed agrees with a simulation of the test, and bad numbers are told."""

import re

import numpy as np
import pytest
from failure_directions.commands import power
from scipy import stats

SETTING = {"images": 2000, "classes": 4, "slices": 5, "error-rate": 0.1, "slice-share": 0.1, "slice-error": 0.35}
WORDS = [word for name, value in SETTING.items() for word in (f"--{name}", str(value))]


def test_the_printed_power_is_the_share_of_drawn_worlds_in_which_the_failure_is_confirmed(capsys):
    power.main(WORDS)
    said = capsys.readouterr().out
    printed = int(re.search(r"of 0\.1: (\d+)%", said)[1]) / 100
    # 500 images a class, 50 flagged: 40 of the failure and 10 others; 10 of the failure are in the rest.
    rng = np.random.default_rng(0)
    flagged = rng.binomial(40, 0.35, 20_000) + rng.binomial(10, 0.1, 20_000)
    rest = rng.binomial(10, 0.35, 20_000) + rng.binomial(440, 0.1, 20_000)
    confirmed = stats.hypergeom.sf(flagged - 1, 500, flagged + rest, 50) <= 0.1 / 5
    assert printed == pytest.approx(confirmed.mean(), abs=0.015)


def test_more_images_show_more_and_the_number_that_is_named_shows_enough(capsys):
    power.main(WORDS)
    needed = int(re.search(r"([\d,]+) images$", capsys.readouterr().out, re.MULTILINE)[1].replace(",", ""))
    power.main([*WORDS, "--images", str(needed)])
    assert int(re.search(r"of 0\.1: (\d+)%", capsys.readouterr().out)[1]) >= 79


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--slice-share", "1.5"], "slice_share"),
        (["--fdr", "0"], "fdr"),
        (["--images", "0"], "images"),
        (["--error-rate", "-1"], "error_rate"),
    ],
)
def test_numbers_that_are_none_are_told(words, said, capsys):
    with pytest.raises(SystemExit, match="2"):
        power.main(words)
    assert said in capsys.readouterr().err


def test_the_figure_is_drawn(tmp_path):
    power.main([*WORDS, "--figure", str(tmp_path / "power.png")])
    assert (tmp_path / "power.png").stat().st_size > 5_000
