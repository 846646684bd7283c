"""Sparse paths: against the glm_saga package, against scikit-learn, and from disk in little memory.

    pip install glm_saga==0.1.2                               # for small and large; only this script needs it
    python benchmarks/bench_sparse.py --settings small        # 4,500 x 512, 10 classes: about 1 minute
    python benchmarks/bench_sparse.py --settings large        # 10,000 x 2,048, 50 classes: about 35 minutes
    python benchmarks/bench_sparse.py --settings grouped      # 10,000 x 2,048, 50 classes: a feature for all or none
    python benchmarks/bench_sparse.py --settings sklearn      # three small problems
    python benchmarks/bench_sparse.py --settings stream       # 128,000 x 2,048 half precision, from disk

`small` and `large`: made features (correlated, after a ReLU), 10 lambdas to lambda_max / 100, alpha .99. The package
has batches of 256, lr .1, tol 1e-4, lookbehind 3 and at most 150 epochs a lambda, and gets its features standardised
for nothing. Both have the same threads, one after the other; on a busy machine give `--threads 1` and compare the CPU
seconds. Objective and KKT violation of both are computed here, by one function, in float64. Times are without the
compilation of our coordinate descent, which numba keeps for the next run.

Exits with 1 if our objective is higher at any lambda, or, with scikit-learn, differs by more than 1e-6 relative.
"""

import argparse
import contextlib
import io
import re
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from failure_directions.runtime.errors import UserError, entry_point
from failure_directions.runtime.files import write_csv
from failure_directions.runtime.tables import format_table
from failure_directions.sparse.feature_chunks import FeatureChunks
from failure_directions.sparse.path import elastic_net_path
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits
from torch.utils.data import DataLoader

SIZES = {"small": (4_500, 512, 10), "large": (10_000, 2_048, 50)}
STREAM_SIZE = 128_000, 2_048, 1_000
ALPHA = 0.99
CSV_HEADER = [
    "setting",
    "lambda",
    "seconds_ours",
    "seconds_theirs",
    "cpu_seconds_ours",
    "cpu_seconds_theirs",
    "objective_ours",
    "objective_theirs",
    "kkt_ours",
    "kkt_theirs",
    "stopped_ours",
    "stopped_theirs",
]


def parse_arguments(arguments):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--settings", nargs="+", choices=[*SIZES, "grouped", "sklearn", "stream"], default=["small"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("results/bench_sparse"), help="folder of SETTING.csv")
    parser.add_argument("--stream-child", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


# ---------------------------------------------------------------- data and judgement


def penultimate_features(n, d, classes, seed=0):
    """Features (n, d) float32 like those before a last layer: 64 common causes, half of them seen, a ReLU."""
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.arange(n) % classes)
    causes = 0.45 * rng.normal(size=(classes, 64))[y] + rng.normal(size=(n, 64))
    mixed = causes @ rng.normal(size=(64, d)) / 8 + 0.3 * rng.normal(size=(n, d))
    return np.maximum(mixed - 0.3, 0).astype(np.float32), y


def objective_and_violation(Z, y, weight, bias, lam, alpha):
    """The multinomial elastic net's objective and its largest KKT violation, NumPy float64."""
    scores = Z @ weight.T + bias
    scores -= scores.max(axis=1, keepdims=True)
    p = np.exp(scores)
    total = p.sum(axis=1, keepdims=True)
    rows = np.arange(len(y))
    loss = (np.log(total[:, 0]) - scores[rows, y]).mean()
    p /= total
    p[rows, y] -= 1
    gradient = p.T @ Z / len(y) + lam * (1 - alpha) * weight
    violation = np.where(
        weight == 0, np.maximum(np.abs(gradient) - lam * alpha, 0), np.abs(gradient + lam * alpha * np.sign(weight))
    )
    penalty = lam * (alpha * np.abs(weight).sum() + (1 - alpha) / 2 * (weight**2).sum())
    return loss + penalty, max(violation.max(), np.abs(p.mean(axis=0)).max())


# ---------------------------------------------------------------- the glm_saga package


def run_saga(X, y, classes):
    """Layers (lam, weight, bias, seconds, stopped by itself) of the package's path on standardised X."""
    try:
        from glm_saga.elasticnet import IndexedTensorDataset, glm_saga
    except ImportError:
        raise UserError("the package glm_saga is not installed; pip install glm_saga==0.1.2") from None
    linear = torch.nn.Linear(X.shape[1], classes)
    torch.nn.init.zeros_(linear.weight)
    torch.nn.init.zeros_(linear.bias)
    torch.manual_seed(0)
    loader = DataLoader(IndexedTensorDataset(torch.from_numpy(X), torch.from_numpy(y)), batch_size=256, shuffle=True)
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = glm_saga(
            linear,
            loader,
            0.1,
            150,
            ALPHA,
            n_ex=len(X),
            n_classes=classes,
            tol=1e-4,
            epsilon=0.01,
            k=10,
            do_zero=False,
            lookbehind=3,
        )["path"]
    # It says so, before the line of a lambda, where it ran into the limit of epochs.
    stopped = ["did not converge" not in part for part in re.split(r"\(\d+\) lambda", said.getvalue())[: len(path)]]
    return [
        (float(step["lam"]), step["weight"].double().numpy(), step["bias"].double().numpy(), step["time"], alone)
        for step, alone in zip(path, stopped, strict=True)
    ]


def against_saga(setting, out):
    """Whether our objective is nowhere higher."""
    n, d, classes = SIZES[setting]
    X, y = penultimate_features(n, d, classes)
    elastic_net_path(X[:500], y[:500], k=2, device="cpu")  # compiles

    start, cpu_start = time.perf_counter(), time.process_time()
    ours = elastic_net_path(X, y, ALPHA, k=10, epsilon=0.01, do_zero=False, device="cpu")
    our_seconds, our_cpu = time.perf_counter() - start, time.process_time() - cpu_start
    print(f"{setting}: {n:,} x {d:,}, {classes} classes: ours took {our_seconds:.2f} s", flush=True)

    Z = (X - ours.mean) / ours.std
    start, cpu_start = time.perf_counter(), time.process_time()
    theirs = run_saga(Z.astype(np.float32), y, classes)
    their_seconds, their_cpu = time.perf_counter() - start, time.process_time() - cpu_start

    rows = []
    for i, (lam, weight, bias, seconds, stopped) in enumerate(theirs):
        if not np.isclose(lam, ours.lambdas[i], rtol=1e-4):
            raise RuntimeError(f"the paths have other lambdas: {lam} and {ours.lambdas[i]}")
        lam = ours.lambdas[i]
        f_ours, kkt_ours = objective_and_violation(Z, y, ours.weight[i].numpy(), ours.bias[i].numpy(), lam, ALPHA)
        f_theirs, kkt_theirs = objective_and_violation(Z, y, weight, bias, lam, ALPHA)
        row = {"setting": setting, "lambda": lam, "seconds_theirs": seconds}
        row |= {"objective_ours": f_ours, "objective_theirs": f_theirs, "kkt_ours": kkt_ours, "kkt_theirs": kkt_theirs}
        rows.append(row | {"stopped_ours": bool(ours.converged[i]), "stopped_theirs": stopped})
    whole = {"setting": setting, "lambda": "all", "seconds_ours": our_seconds, "seconds_theirs": their_seconds}
    whole |= {"cpu_seconds_ours": our_cpu, "cpu_seconds_theirs": their_cpu}
    write_csv(out / f"{setting}.csv", CSV_HEADER, [[row.get(name) for name in CSV_HEADER] for row in [*rows, whole]])

    header = ["lambda", "objective ours", "glm_saga", "KKT / lambda_max ours", "glm_saga", "it stopped by itself"]
    cells = [
        [f"{row[name]:.6f}" for name in ("lambda", "objective_ours", "objective_theirs")]
        + [f"{row[name] / ours.lambdas[0]:.1e}" for name in ("kkt_ours", "kkt_theirs")]
        + ["yes" if row["stopped_theirs"] else "no"]
        for row in rows
    ]
    print(format_table(header, cells))
    for what, mine, other in (("", our_seconds, their_seconds), ("CPU ", our_cpu, their_cpu)):
        print(f"{setting}: ours {mine:.2f} {what}s, glm_saga {other:.2f} {what}s: {other / mine:.1f} times", flush=True)
    # At lambda_max both are the model without features, up to rounding.
    return all(row["objective_ours"] <= row["objective_theirs"] for row in rows[1:])


# ---------------------------------------------------------------- a feature for all classes or none


def grouped():
    """Processor seconds of a path with a group per feature, and of one without; ours both."""
    n, d, classes = SIZES["large"]
    X, y = penultimate_features(n, d, classes)
    seconds = {}
    for group in (False, True):
        elastic_net_path(X[:500], y[:500], k=2, group=group, device="cpu")  # compiles
        start = time.process_time()
        path = elastic_net_path(X, y, ALPHA, k=10, epsilon=0.01, group=group, do_zero=False, device="cpu")
        seconds[group] = time.process_time() - start
        name = "a group per feature" if group else "elementwise"
        print(
            f"{name}: {seconds[group]:.1f} CPU s, KKT / lambda_max {path.kkt.max() / path.lambdas[0]:.1e}", flush=True
        )
    print(f"grouped: {n:,} x {d:,}, {classes} classes: {seconds[True] / seconds[False]:.2f} times the elementwise path")


# ---------------------------------------------------------------- scikit-learn


def against_sklearn(out):
    """Whether objectives agree to 1e-6 relative, and supports entirely."""
    elastic_net_path(*penultimate_features(60, 5, 3), k=2, device="cpu")  # compiles
    rows = []
    for n, d, classes, alpha, share in [(300, 20, 3, 0.9, 0.1), (200, 40, 5, 0.5, 0.2), (150, 200, 4, 0.99, 0.2)]:
        X, y = penultimate_features(n, d, classes, seed=n)
        start = time.perf_counter()
        ours = elastic_net_path(X, y, alpha, k=2, epsilon=share, do_zero=False, device="cpu", tol=1e-8)
        our_seconds = time.perf_counter() - start
        lam, Z = ours.lambdas[1], (X - ours.mean) / ours.std
        start = time.perf_counter()
        theirs = LogisticRegression(
            l1_ratio=alpha, C=1 / (n * lam), solver="saga", tol=1e-10, max_iter=100_000, random_state=0
        ).fit(Z, y)
        their_seconds = time.perf_counter() - start
        weight = ours.weight[1].numpy()
        f_ours, _ = objective_and_violation(Z, y, weight, ours.bias[1].numpy(), lam, alpha)
        f_theirs, _ = objective_and_violation(Z, y, theirs.coef_, theirs.intercept_, lam, alpha)
        same_support = np.array_equal(weight != 0, theirs.coef_ != 0)
        rows.append([n, d, classes, alpha, our_seconds, their_seconds, f_ours, f_ours / f_theirs - 1, same_support])
    header = ["n", "d", "classes", "alpha", "seconds_ours", "seconds_theirs", "objective", "difference", "same_support"]
    write_csv(out / "sklearn.csv", header, rows)
    print(format_table(header, [[*row[:7], f"{row[7]:.1e}", row[8]] for row in rows]))
    return all(abs(row[7]) <= 1e-6 and row[8] for row in rows)


# ---------------------------------------------------------------- from disk


def stream(threads):
    """A path on features that stay on disk, in a process of its own, whose anonymous memory is watched."""
    n, d, _ = STREAM_SIZE
    with tempfile.TemporaryDirectory() as folder:
        rng = np.random.default_rng(0)
        mixing = rng.normal(size=(64, d)).astype(np.float32) / 8

        def batches():
            for start in range(0, n, 2_000):
                causes = rng.normal(size=(min(2_000, n - start), 64)).astype(np.float32)
                yield np.maximum(causes @ mixing, 0)

        FeatureChunks.write(folder, batches())
        command = [sys.executable, __file__, "--stream-child", folder, "--threads", str(threads)]
        child = subprocess.Popen(command)
        peak = 0
        while child.poll() is None:
            with contextlib.suppress(FileNotFoundError, StopIteration), open(f"/proc/{child.pid}/status") as lines:
                peak = max(peak, next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")))
            time.sleep(0.05)
    size = n * d * 2 / 2**30
    print(f"stream: {size:.2f} GiB of features on disk; peak anonymous memory of the process {peak / 2**20:.2f} GiB")
    return child.returncode == 0


def stream_child(folder):
    """Two lambdas, none of the features kept; the tolerance is loose, because a pass is what is shown."""
    features = FeatureChunks.open(folder)
    n, _, classes = STREAM_SIZE
    y = np.random.default_rng(1).permutation(np.arange(n) % classes)
    start = time.perf_counter()
    path = elastic_net_path(features, y, k=2, epsilon=0.8, do_zero=False, tol=0.05, device="cpu", memory_gb=0)
    print(
        f"stream: {n:,} x {features.shape[1]:,} {features.dtype}, {classes:,} classes, 2 lambdas: "
        f"{time.perf_counter() - start:.0f} s, KKT / lambda_max {path.kkt.max() / path.lambdas[0]:.1e}"
    )


@entry_point
def main(arguments=None):
    args = parse_arguments(arguments)
    torch.set_num_threads(args.threads)
    with threadpool_limits(args.threads):
        if args.stream_child:
            stream_child(args.stream_child)
            return
        fine = True
        for setting in args.settings:
            if setting in SIZES:
                fine &= against_saga(setting, args.out)
            elif setting == "grouped":
                grouped()
            elif setting == "sklearn":
                fine &= against_sklearn(args.out)
            else:
                fine &= stream(args.threads)
    sys.exit(not fine)


if __name__ == "__main__":
    main()
