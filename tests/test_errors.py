import pytest
import torch

from src.errors import entry_point


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
