import errno
import getpass
import os
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


def test_a_user_without_a_name_has_a_number(monkeypatch):
    """As under `docker run -u 12345`: torch asks for the name as it is imported."""
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", lambda uid: {}[uid])
    monkeypatch.setenv("USER", "")  # so that it is put back
    assert entry_point(getpass.getuser)() == str(os.getuid())


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


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--report", ""], "error: --report is empty, as a shell's variable that is not set is: give it a value"),
        (["--report="], "error: --report is empty"),
        (["scenes", ""], "error: an argument is empty"),
    ],
)
def test_an_empty_argument_is_refused_by_every_command(capsys, argv, said):
    with pytest.raises(SystemExit) as stop:
        entry_point(lambda argv: pytest.fail("it began"))(argv)
    assert stop.value.code == 2
    assert capsys.readouterr().err.startswith(said)
    entry_point(lambda argv: None)(["--report", "x", "--override", "key=", "-"])


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "there is not enough memory"),
        (RuntimeError("can't start new thread"), "there is not enough memory"),
        (RuntimeError("could not create a primitive"), "there is not enough memory"),
        (OSError(errno.EMFILE, "Too many open files"), "ulimit -n 4096"),
        (OSError(errno.EROFS, "Read-only file system", "/psm_1"), "shared memory (/dev/shm) cannot be used"),
        (OSError(errno.ENOENT, "No such file or directory", "/dev/shm/x"), "shared memory (/dev/shm) cannot be used"),
    ],
)
def test_what_a_system_is_short_of_is_named(capsys, error, said):
    def command():
        raise error

    with pytest.raises(SystemExit) as stop:
        entry_point(command)()
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line


def test_compiled_code_that_gives_up_ends_in_a_sentence():
    program = """
import ctypes
from failure_directions.runtime.errors import entry_point
entry_point(lambda argv: ctypes.CDLL(None).abort())([])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: compiled code gave up, most likely for want of memory")
