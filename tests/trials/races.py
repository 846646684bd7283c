"""Two commands at once on the same files: does each end with whole files of one of them? Real commands, real files.

    OMP_NUM_THREADS=1 python -m tests.trials.races --rounds 20 --out OUT

Two results: two calls of `distil` with different settings write one --out-file at the same time; in the end all of its
files are those of one call. A report: it is read, again and again, from a result that is replaced meanwhile; each is
that of one of the two results, byte for byte, or a sentence that says what happened, with exit code 2.
"""

import argparse
import os
import signal
import sys
import time
from pathlib import Path

import torch
from failure_directions.commands import distil, report
from failure_directions.directions.results import OutputFiles, write_analysis
from failure_directions.runtime.errors import UserError, entry_point

from tests.trials.kill_trials import check_same, import_everything, prepare, stages, start, undisturbed

APART = 0.25  # seconds that the second of two calls begins later, at most
BETWEEN = 1.5  # seconds from one result to the next: a report takes about one


@entry_point
def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20, help="of each kind (default: 20)")
    parser.add_argument("--out", required=True, help="folder for everything; must not exist")
    args = parser.parse_args(argv)
    out = Path(args.out).absolute()
    if out.exists():
        raise UserError(f"--out {out} exists; name a new folder")
    torch.set_num_threads(1)
    import_everything()
    prepare(out / "data", ["embeddings, SVMs, captions"])
    calls = two_calls(out / "data")
    problems = two_results(calls, out, args.rounds) + replaced_reports(calls, out, args.rounds)
    print(f"{2 * args.rounds} rounds, {len(problems)} with a problem")
    print(*problems, sep="\n")
    sys.exit(bool(problems))


def two_calls(data):
    """Two functions of a folder that give the argv of `distil` there, with other settings and other files."""
    words = stages(data)["embeddings, SVMs, captions"].words

    def with_captions(folder):
        return [*map(str, words(folder)), "--cache", str(data / "cache"), "--jobs", "1"]

    def without(folder):
        kept = [word for word in with_captions(folder) if word not in ("--captions", "SCENES", "--spurious")]
        return [*kept, "--override", "svm_args.cv=3", "--override", "directions=1"]

    return [with_captions, without]


def two_results(calls, out, rounds):
    """Both calls at once on one --out-file; what is wrong with the files that are there in the end."""
    wholes = [out / f"whole_{number}" for number in (0, 1)]
    for call, whole in zip(calls, wholes, strict=True):
        undisturbed(distil.main, call(whole), out / "log.txt")
    problems = []
    for number in range(rounds):
        folder = out / f"both_{number}"
        began = []
        for call in calls:
            began.append(start(distil.main, call(folder), out / "log.txt"))
            time.sleep(APART * number / rounds)
        for process in began:
            _, status = os.waitpid(process, 0)
            if status:
                problems.append(f"two results, {folder}: a call ended with status {status}")
        if not any(_same(folder, whole) for whole in wholes):
            problems.append(f"two results, {folder}: the files are of two calls")
    return problems


def _same(folder, whole):
    try:
        check_same(folder, whole)
    except AssertionError:
        return False
    return True


def replaced_reports(calls, out, rounds):
    """Reports of a result that two calls replace in turn; what is wrong with them."""
    folder, log = out / "replaced", out / "log.txt"
    files = OutputFiles.named(folder / "svm.pt")
    found, expected = [], []
    for args in (distil.parse_arguments(call(folder)) for call in calls):
        found.append(distil.distil(distil.load(args), args))
        write_analysis(files, found[-1])
        undisturbed(report.main, words_of_report(files, out / "expected.html"), log)
        expected.append((out / "expected.html").read_bytes())
    writer = start(lambda _: replace_for_ever(files, found), [], log)
    problems, refused = [], 0
    for number in range(rounds):
        said, page = out / f"report_{number}.txt", out / f"report_{number}.html"
        _, status = os.waitpid(start(report.main, words_of_report(files, page), said), 0)
        code = os.waitstatus_to_exitcode(status)
        last = said.read_text(errors="replace").splitlines()[-1]
        refused += code == 2
        if code == 0:
            if page.read_bytes() not in expected:
                problems.append(f"a report, {page}: it is of two results")
        elif code != 2 or not last.startswith("error: ") or page.exists():
            problems.append(f"a report, {page}: exit code {code}, {last}")
    os.killpg(writer, signal.SIGKILL)
    os.waitpid(writer, 0)
    print(f"of {rounds} reports of a result that was being replaced {refused} say so, the others are whole")
    return problems


def words_of_report(files, page):
    return ["--svm", str(files.result), "--report", str(page)]


def replace_for_ever(files, found):
    """Replace a result by another, again and again."""
    while True:
        for one in found:
            write_analysis(files, one)
            time.sleep(BETWEEN)


if __name__ == "__main__":
    main()
