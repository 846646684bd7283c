"""What is not installed is named with the line that installs it; every package of an extra is known."""

import re
import sys
import tomllib
from pathlib import Path

import pytest
from failure_directions.runtime.errors import entry_point
from failure_directions.runtime.extras import EXTRAS

ROOT = Path(__file__).resolve().parents[1]
DECLARED = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DISTRIBUTIONS = {"open_clip": "open_clip_torch", "pyarrow": "datasets"}  # where it is not the module's name


def brought_by(extra):
    """Names of the packages of an extra, those of the extras in it included."""
    names = set()
    for requirement in DECLARED["optional-dependencies"][extra]:
        name, inner = re.match(r"([\w-]+)(?:\[([\w,-]+)\])?", requirement).groups()
        if name == DECLARED["name"]:
            names |= set().union(*map(brought_by, inner.split(",")))
        else:
            names.add(name)
    return names


@pytest.mark.parametrize("module", EXTRAS)
def test_the_extra_that_is_named_brings_the_package(module):
    assert DISTRIBUTIONS.get(module, module) in brought_by(EXTRAS[module])


def test_all_brings_what_every_extra_brings():
    extras = set(DECLARED["optional-dependencies"]) - {"all", "dev"}
    assert brought_by("all") == set().union(*map(brought_by, extras))


def test_a_command_that_lacks_a_package_says_how_to_install_it(monkeypatch, capsys):
    @entry_point
    def main():
        import ffcv.writer  # noqa: F401

    monkeypatch.setitem(sys.modules, "ffcv", None)
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    said = 'error: this needs ffcv, which is not installed: pip install "failure-directions[train]"\n'
    assert capsys.readouterr().err == said


def test_a_package_that_nobody_knows_is_an_error_of_ours():
    @entry_point
    def main():
        import no_such_package_as_this  # noqa: F401

    with pytest.raises(ModuleNotFoundError, match="no_such_package_as_this"):
        main()
