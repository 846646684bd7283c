import csv
import os
import pickle
import signal
import subprocess
import sys
import zipfile
from dataclasses import dataclass

import numpy as np
import pytest
import safetensors.torch
import torch
from failure_directions.runtime.errors import UserError, entry_point
from failure_directions.runtime.files import (
    atomic_path,
    check_apart,
    check_writable,
    create_npy,
    no_formula,
    read_rows,
    unchanged,
    without_apostrophe,
    write_csv,
    write_file,
    write_rows,
    written_together,
)
from failure_directions.runtime.pt_files import check_weights_folder, load_pt, load_tensors, save_pt


def test_what_is_saved_is_loaded_again(tmp_path):
    save_pt({"a": torch.arange(3), "b": [1, "x"]}, tmp_path / "deep" / "x.pt")
    content = load_pt(tmp_path / "deep" / "x.pt", "file")
    assert content["a"].tolist() == [0, 1, 2]
    assert content["b"] == [1, "x"]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    (tmp_path / "x.csv").write_text("old")

    def rows():
        yield [1]
        raise OSError("no space")

    with pytest.raises(OSError, match="no space"):
        write_csv(tmp_path / "x.csv", ["a"], rows())
    assert os.listdir(tmp_path) == ["x.csv"]
    assert (tmp_path / "x.csv").read_text() == "old"


def test_files_that_are_written_together_get_their_names_together(tmp_path):
    (tmp_path / "a.csv").write_text("old")
    (tmp_path / "b.csv").write_text("stale")
    with written_together(old=[tmp_path / "b.csv"]):
        write_csv(tmp_path / "a.csv", ["a"], [])
        with written_together(old=[tmp_path / "none.csv"]):
            write_csv(tmp_path / "new" / "c.csv", ["c"], [])
        assert (tmp_path / "a.csv").read_text() == "old"
        assert not (tmp_path / "new" / "c.csv").exists()
        assert (tmp_path / "b.csv").exists()
    assert {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.*")} == {"a.csv", "new/c.csv"}
    assert (tmp_path / "a.csv").read_text().strip() == "a"


def test_of_files_that_are_written_together_a_failure_leaves_the_old_ones_and_nothing_else(tmp_path):
    (tmp_path / "a.csv").write_text("old")

    def write():
        with written_together(old=[tmp_path / "a.csv"]):
            write_csv(tmp_path / "deep" / "er" / "b.csv", ["b"], [])
            write_csv(tmp_path / "deep" / "er" / "c.csv", ["c"], [])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write()
    assert os.listdir(tmp_path) == ["a.csv"]
    assert (tmp_path / "a.csv").read_text() == "old"
    write_csv(tmp_path / "a.csv", ["new"], [])  # and afterwards each file is written by itself again
    assert (tmp_path / "a.csv").read_text().strip() == "new"


class _Hostile:
    def __reduce__(self):
        return os.system, ("touch /tmp/pwned_by_a_pickle",)


@pytest.mark.parametrize("protocol", ["torch", "pickle"])
def test_a_pickle_that_runs_code_is_refused_and_not_run(tmp_path, protocol):
    path = tmp_path / "hostile.pt"
    if protocol == "torch":
        torch.save({"x": _Hostile()}, path)
    else:
        path.write_bytes(pickle.dumps(_Hostile()))
    with pytest.raises(UserError, match=r"index file .*hostile\.pt .*could run code"):
        load_pt(path, "index file")
    assert not os.path.exists("/tmp/pwned_by_a_pickle")


class _Foreign:
    """A class of a library that is not installed, as a file may name it."""


def test_a_class_that_a_caller_names_is_read_as_its_stand_in_and_no_other(tmp_path):
    torch.save({"callback": _Foreign, "x": torch.ones(2)}, tmp_path / "x.pt")
    name, stand_in = f"{_Foreign.__module__}.{_Foreign.__qualname__}", type("Unused", (), {})
    with pytest.raises(UserError, match="could run code"):
        load_pt(tmp_path / "x.pt", "checkpoint")
    with pytest.raises(UserError, match="could run code"):
        load_pt(tmp_path / "x.pt", "checkpoint", stand_ins=[(stand_in, f"{name}Other")])
    found = load_pt(tmp_path / "x.pt", "checkpoint", stand_ins=[(stand_in, name)])
    assert found["callback"] is stand_in
    torch.save({"callback": _Foreign, "x": _Hostile()}, tmp_path / "y.pt")
    with pytest.raises(UserError, match="could run code"):
        load_pt(tmp_path / "y.pt", "checkpoint", stand_ins=[(stand_in, name)])


def test_a_file_that_would_fill_the_memory_is_refused(tmp_path):
    """torch itself lets a file call bytearray."""
    (tmp_path / "x.pt").write_bytes(pickle.dumps(bytearray(10)))
    with pytest.raises(UserError, match="could run code"):
        load_pt(tmp_path / "x.pt", "checkpoint")


def test_tensors_come_from_safetensors_too(tmp_path):
    safetensors.torch.save_file({"a": torch.arange(3)}, tmp_path / "x.safetensors")
    assert load_tensors(tmp_path / "x.safetensors", "weights")["a"].tolist() == [0, 1, 2]
    with pytest.raises(UserError, match=r"weights .*y\.safetensors does not exist"):
        load_tensors(tmp_path / "y.safetensors", "weights")
    (tmp_path / "y.safetensors").write_bytes((tmp_path / "x.safetensors").read_bytes()[:-9])
    with pytest.raises(UserError, match=r"y\.safetensors is damaged; get it again"):
        load_tensors(tmp_path / "y.safetensors", "weights")


def test_truncated_and_missing_files_are_named(tmp_path):
    save_pt({"a": torch.zeros(1000)}, tmp_path / "x.pt")
    whole = (tmp_path / "x.pt").read_bytes()
    for size in (0, 10, len(whole) // 2, len(whole) - 20):
        (tmp_path / "cut.pt").write_bytes(whole[:size])
        with pytest.raises(UserError, match=r"checkpoint .*cut\.pt"):
            load_pt(tmp_path / "cut.pt", "checkpoint")
    with pytest.raises(UserError, match="does not exist"):
        load_pt(tmp_path / "none.pt", "checkpoint")


def test_places_that_cannot_be_written_are_refused_before_anything_is_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="not a folder"):
        check_writable(tmp_path / "file" / "x.pt")
    with pytest.raises(UserError, match="it is a folder"):
        check_writable(tmp_path)
    with pytest.raises(UserError), atomic_path("/proc/nothing/x.pt"):
        pass
    assert os.listdir(tmp_path) == ["file"]


def test_what_is_no_ordinary_file_is_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match="no ordinary file"):
        save_pt({}, tmp_path / "pipe")


def test_a_full_disk_is_one_sentence_and_exit_code_2(capsys):
    @entry_point
    def main():
        with open("/dev/full", "w") as stream:
            stream.write("x" * 100)

    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    assert "disk is full" in capsys.readouterr().err


def test_a_new_npy_file_takes_its_place_on_disk(tmp_path):
    array = create_npy(tmp_path / "x.npy", (1000, 10))
    array[:] = 3
    array.flush()
    assert os.stat(tmp_path / "x.npy").st_blocks * 512 >= array.nbytes
    assert np.load(tmp_path / "x.npy").sum() == 30_000


def two_directories(path):
    """A zip file that Python reads by the directory at its end, and other readers by one that lies before it."""
    save_pt({"w": torch.zeros(4)}, path)
    whole = path.read_bytes()
    length, start = (int.from_bytes(whole[a:b], "little") for a, b in ((-10, -6), (-6, -2)))
    path.write_bytes(whole[:-22] + whole[start : start + length] + whole[-22:])


def of_few_bytes(path, legacy):
    """Ten numbers stored, 1.6 billion asked for."""
    content = {"w": torch.zeros(10)}
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    small, large = b"K\x0a", b"J" + (1_600_000_000).to_bytes(4, "little")
    if legacy:
        path.write_bytes(path.read_bytes().replace(b"cpuq\x06" + small, b"cpuq\x06" + large, 1))
        return
    with zipfile.ZipFile(path) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, record in records.items():
            archive.writestr(name, record.replace(small, large, 1) if name.endswith("data.pkl") else record)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (two_directories, "directory where torch.save does not write it"),
        (lambda path: of_few_bytes(path, legacy=True), "asks for more numbers than it holds"),
        (lambda path: of_few_bytes(path, legacy=False), "asks for more numbers than it holds"),
    ],
)
def test_weights_that_another_library_is_to_load_are_looked_through_first(tmp_path, make, words):
    make(tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match=words):
        check_weights_folder(tmp_path, "weights")
    with pytest.raises(UserError, match=words):
        load_pt(tmp_path / "pytorch_model.bin", "weights")


def test_weights_of_both_formats_pass_and_safetensors_are_preferred(tmp_path):
    shared = torch.arange(12.0)
    content = {
        "w": torch.nn.Parameter(torch.zeros(3, 4)),
        "a": shared[:6],
        "b": shared[6:],
        "n": 2**60,
        "h": torch.zeros(2).half(),
    }
    for legacy in (True, False):
        torch.save(content, tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=not legacy)
        assert check_weights_folder(tmp_path, "weights") is False
        assert torch.equal(load_pt(tmp_path / "pytorch_model.bin", "weights")["b"], shared[6:])
    two_directories(tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert check_weights_folder(tmp_path, "weights") is True


def test_text_that_a_spreadsheet_would_run_is_escaped_where_people_open_the_file(tmp_path):
    rows = [["=1+1", "-0.5", -0.5, "-x", "@a", "+b", "\tc", "cat"]]
    write_csv(tmp_path / "x.csv", list("abcdefgh"), rows, for_people=True)
    with open(tmp_path / "x.csv", newline="") as stream:
        assert list(csv.reader(stream))[1] == ["'=1+1", "-0.5", "-0.5", "'-x", "'@a", "'+b", "'\tc", "cat"]
    for cell in ("=1", "'=1", "''-x", "'cat", "-0.5", "cat", "-"):
        assert without_apostrophe(no_formula(cell)) == cell
    write_csv(tmp_path / "x.csv", ["a"], [["=1+1"]])
    assert (tmp_path / "x.csv").read_text().splitlines() == ["a", "=1+1"]


def test_no_name_commands_the_terminal(capsys):
    @entry_point
    def command():
        print("a\x1b[2Jb\x07\x9b31m\u202e\tc")
        print("d\x1b]0;title\x07", file=sys.stderr)
        sys.stderr.write("bar\r\x1b[A")

    command()
    out, err = capsys.readouterr()
    assert out == "a\ufffd[2Jb\ufffd\ufffd31m\ufffd\tc\n"
    assert err == "d\ufffd]0;title\ufffd\nbar\r\x1b[A"


@pytest.mark.parametrize(
    ("number", "code", "word"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
@pytest.mark.parametrize("place", ["import", "work", "after the work"])
def test_a_signal_ends_a_command_in_one_line_from_its_first_import_on(tmp_path, number, code, word, place):
    wait = "print('ready', flush=True); import time; time.sleep(60)"
    lines = {
        "import": f"from failure_directions.runtime.signals import quiet_start\nwith quiet_start(): {wait}",
        "work": f"""
from failure_directions.runtime.errors import entry_point
from failure_directions.runtime.files import atomic_path
@entry_point
def main():
    with atomic_path('x.csv'):
        {wait}
main()""",
        "after the work": f"""
import sys, types
from failure_directions.commands import main
from failure_directions.runtime.errors import entry_point
def work(words):
    entry_point(lambda: None)()
    {wait}
sys.modules["failure_directions.commands.find"] = types.SimpleNamespace(main=work)
main.main(["find"])""",
    }
    call = [sys.executable, "-c", lines[place]]
    process = subprocess.Popen(
        call,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # As a terminal starts it: under a script's background job, SIGINT is ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (code, f"{word}\n")
    assert os.listdir(tmp_path) == []


def test_a_link_stays_and_what_it_points_to_is_written(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link.txt").symlink_to(tmp_path / "elsewhere" / "file.txt")
    for text in (b"first", b"second"):
        write_file(tmp_path / "link.txt", text)
        assert (tmp_path / "elsewhere" / "file.txt").read_bytes() == text
        assert (tmp_path / "link.txt").is_symlink()
    assert sorted(os.listdir(tmp_path)) == ["elsewhere", "link.txt"]


def test_a_link_to_a_pipe_is_not_replaced(tmp_path):
    # As /dev/stdout is, where the output goes to another program.
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "stdout").symlink_to(tmp_path / "pipe")
    with pytest.raises(UserError, match="no ordinary file"):
        write_file(tmp_path / "stdout", b"")
    assert (tmp_path / "stdout").is_symlink()


def test_what_is_read_is_not_written_and_nothing_is_written_twice(tmp_path):
    (tmp_path / "read.csv").write_text("a")
    (tmp_path / "link.csv").symlink_to(tmp_path / "read.csv")
    check_apart([tmp_path / "new.html", None, ""], [tmp_path / "read.csv", None, "timm:resnet18"])
    check_apart([tmp_path / "new.html"], [tmp_path / "new.html"])  # not there, and so not read
    for output in ("read.csv", "link.csv", "../" + tmp_path.name + "/read.csv"):
        with pytest.raises(UserError, match=r"\.csv would be written, but is read by this command"):
            check_apart([tmp_path / output], [tmp_path / "read.csv"])
    with pytest.raises(UserError, match="would be written twice"):
        check_apart([tmp_path / "new.html", f"{tmp_path}/./new.html"], [])


def test_a_result_that_is_replaced_as_it_is_read_is_told(tmp_path):
    write_file(tmp_path / "OUT.pt", b"one")
    with unchanged(tmp_path / "OUT.pt"):
        assert (tmp_path / "OUT.pt").read_bytes() == b"one"
    with pytest.raises(UserError, match=r"OUT\.pt was replaced by another command"), unchanged(tmp_path / "OUT.pt"):
        write_file(tmp_path / "OUT.pt", b"two")

    def captions_of_another():
        write_file(tmp_path / "OUT.pt", b"one")
        raise UserError("the captions are of another result")

    with pytest.raises(UserError, match="was replaced"), unchanged(tmp_path / "OUT.pt"):
        captions_of_another()
    with pytest.raises(UserError, match="are damaged"), unchanged(tmp_path / "OUT.pt"):
        raise UserError("the captions are damaged")


def test_of_two_results_of_one_name_one_is_there_whole(tmp_path):
    program = """
import sys
from failure_directions.runtime.files import write_file, written_together
for number in range(100):
    with written_together(old=[f"{letter}.txt" for letter in "abcd"]):
        for letter in "abcd"[: 2 + 2 * (sys.argv[1] == "first")]:
            write_file(f"{letter}.txt", sys.argv[1].encode())
"""
    calls = [[sys.executable, "-c", program, name] for name in ("first", "second")]
    for process in [subprocess.Popen(call, cwd=tmp_path) for call in calls]:
        assert process.wait() == 0
    left = {path.name: path.read_text() for path in tmp_path.iterdir()}
    wholes = [dict.fromkeys(map("{}.txt".format, "abcd"), "first"), dict.fromkeys(map("{}.txt".format, "ab"), "second")]
    assert left in wholes


@dataclass(frozen=True)
class Line:
    name: str
    count: int
    share: float
    right: int | str


def test_rows_of_a_dataclass_are_read_as_they_were_written(tmp_path):
    lines = [Line("a, b", 3, 0.1, 1), Line("", -1, float("inf"), "")]
    write_rows(tmp_path / "x.csv", Line, lines)
    assert read_rows(tmp_path / "x.csv", Line) == lines
    write_rows(tmp_path / "empty.csv", Line, [])
    assert read_rows(tmp_path / "empty.csv", Line) == []


@pytest.mark.parametrize(
    "content",
    [
        "name,count,share\na,1,2\n",
        "name,count,share,right\na,x,2,1\n",
        "name,count,share,right\na,1\n",
        "\xff\x00",
        "\0",
    ],
)
def test_a_table_of_something_else_is_no_table_of_a_dataclass(content, tmp_path):
    (tmp_path / "x.csv").write_bytes(content.encode("latin-1") + b"\n")
    with pytest.raises(ValueError, match=r"x\.csv is no table of Line"):
        read_rows(tmp_path / "x.csv", Line)
