"""Training the last layer alone on kept features, against training the whole network further: seconds, side by side.

    python benchmarks/bench_last_layer.py -c cifar_thin --indices-file cifar --root data \\
        --model-path runs/cifar/version_0/checkpoints/checkpoint_last.pt --out results/last_layer

Three calls of ffcv_main.py with the published settings (15 epochs, rate peaking at 0.1 in epoch 5): the last layer, its
features computed first; again, the features read; and everything. Writes OUT/last_layer.csv.
"""

import argparse
import shutil
import time
from pathlib import Path

from failure_directions.commands import train as ffcv_main
from failure_directions.commands.loop import FINETUNING
from failure_directions.commands.steps import repeated
from failure_directions.runtime.errors import entry_point
from failure_directions.runtime.files import write_csv
from failure_directions.runtime.pt_files import load_pt
from failure_directions.runtime.tables import format_table


@entry_point
def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-c", "--config", required=True)
    parser.add_argument("--indices-file")
    parser.add_argument("--root", default=".")
    parser.add_argument("--model-path", required=True, help="trained checkpoint")
    parser.add_argument("--out", required=True)
    args = parser.parse_args()
    out = Path(args.out)
    # A copy in a run of its own, in which no features are kept from before.
    start = out / "start" / "checkpoints" / "checkpoint.pt"
    shutil.rmtree(out / "start", ignore_errors=True)
    start.parent.mkdir(parents=True)
    shutil.copy(args.model_path, start)
    common = [
        "-c",
        args.config,
        "--root",
        args.root,
        "--runs",
        out / "runs",
        "--finetune-from",
        start,
        "--disable-logging",
        *repeated("--override", FINETUNING),
    ]
    common += ["--indices-file", args.indices_file] if args.indices_file else []
    rows = []
    for name, options in (
        ("last layer, features computed", ["--freeze"]),
        ("last layer, features kept", ["--freeze"]),
        ("whole network", []),
    ):
        began = time.perf_counter()
        exp_name = name.replace(",", "").replace(" ", "_")
        ffcv_main.main([str(word) for word in (*common, *options, "--exp-name", exp_name)])
        seconds = time.perf_counter() - began
        run = max((out / "runs" / exp_name).glob("version_*"), key=lambda path: path.stat().st_mtime)
        rows.append([name, seconds, load_pt(run / "metrics.pt", "metrics")["test"]["accuracy"]])
    header = ["trained", "seconds", "test accuracy", "whole network / this"]
    rows = [[*row, rows[-1][1] / row[1]] for row in rows]
    write_csv(out / "last_layer.csv", header, rows)
    print(format_table(header, rows))


if __name__ == "__main__":
    main()
