import subprocess
import sys
from pathlib import Path

import pytest
import torch
from failure_directions.runtime.errors import UserError, entry_point

ROOT = Path(__file__).resolve().parents[1]


def test_too_little_memory_is_told_in_a_sentence(capsys):
    with pytest.raises(SystemExit) as stop:
        entry_point(lambda: torch.empty(10**17))()
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: there is not enough memory (")


def test_a_mistake_of_the_program_keeps_its_traceback():
    def fail():
        raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match="shapes differ"):
        entry_point(fail)()


def test_no_name_in_an_error_commands_the_terminal(capsys):
    def fail():
        raise UserError("image a\n\x1b]0;b\x07.png is broken")

    with pytest.raises(SystemExit):
        entry_point(fail)()
    assert capsys.readouterr().err == "error: image a  ]0;b .png is broken\n"


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_mapped_file_that_shrinks_is_a_sentence_and_no_signal(tmp_path):
    program = """
import os, sys
import numpy as np
from src.runtime.errors import entry_point
def main():
    path = sys.argv[1]
    open(path, "wb").write(bytes(2**20))
    mapped = np.memmap(path, np.uint8, "r")
    os.truncate(path, 5000)
    mapped.sum()
entry_point(main)()
"""
    words = [sys.executable, "-c", program, tmp_path / "x.beton"]
    found = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert found.returncode == 2
    (line,) = found.stderr.splitlines()
    assert line.startswith(f"error: {tmp_path / 'x.beton'} was cut short, or its disk went away, as it was read")
