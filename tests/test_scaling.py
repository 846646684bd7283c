"""The same directions from one process, several, and a cluster, and memory that does not grow with the embeddings."""

import csv
import pickle
import socket
import tracemalloc
from dataclasses import replace

import joblib
import numpy as np
import pytest
from failure_directions.commands import distil as train_svms
from failure_directions.directions import job_backends as jobs
from failure_directions.directions import label_noise
from failure_directions.directions import results as svm_results
from failure_directions.directions.job_backends import JobsBackend
from failure_directions.directions.label_noise import looks_like
from failure_directions.directions.results import SplitResult, write_split_csv
from failure_directions.runtime.errors import UserError
from failure_directions.svm_utils import SVMFitter
from joblib.parallel import ThreadingBackend, register_parallel_backend
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

CLASSES, EXAMPLES, D = 24, 60, 16


@pytest.fixture(scope="module")
def problem():
    """Predictions, labels and embeddings, float16, in which errors lie on one side."""
    rng = np.random.default_rng(0)
    ys = rng.permutation(np.arange(CLASSES * EXAMPLES) % CLASSES)
    right = rng.random(len(ys)) < 0.7
    latents = rng.standard_normal((len(ys), D)) + right[:, None]
    return np.where(right, ys, (ys + 1) % CLASSES), ys, latents.astype(np.float16)


@pytest.fixture(scope="module")
def mapped(problem, tmp_path_factory):
    """The same embeddings in a memory-mapped file."""
    path = tmp_path_factory.mktemp("embeddings") / "val.npy"
    np.save(path, problem[2])
    return np.load(path, mmap_mode="r")


def answers(problem, latents=None, backend="local", workers=1):
    """All that a fit leaves: directions, intercepts, chosen C and scores."""
    preds, ys, in_memory = problem
    fitter = SVMFitter(jobs=workers)
    fitter.set_preprocess(in_memory)
    with JobsBackend.parse(backend).connected():
        fitter.fit(preds=preds, ys=ys, latents=in_memory if latents is None else latents)
    return np.column_stack([fitter.coef, fitter.intercept, fitter.C, fitter.cv_scores])


# ---- the same answer everywhere -------------------------------------------------------------------------------------


def test_memory_maps_and_several_processes_give_the_same_directions_bit_for_bit(problem, mapped):
    one = answers(problem)
    assert np.isfinite(one).all()
    for latents, workers in ((mapped, 1), (None, 2), (mapped, 2), (mapped[:], 2)):
        np.testing.assert_array_equal(answers(problem, latents, workers=workers), one)


def test_changes_to_a_map_that_its_file_does_not_have_reach_the_workers(problem, mapped):
    own = np.load(mapped.filename, mmap_mode="c")
    own[:] = own[:, ::-1]
    turned = answers((*problem[:2], problem[2][:, ::-1].copy()))
    np.testing.assert_array_equal(answers((*problem[:2], own), workers=2), turned)


def test_a_dask_cluster_gives_the_same_directions_bit_for_bit(problem, mapped):
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0") as cluster:
        backend = cluster.scheduler_address.replace("tcp", "dask")
        for latents in (None, mapped):
            np.testing.assert_array_equal(answers(problem, latents, backend, workers=-1), answers(problem))


def test_a_ray_cluster_gives_the_same_directions_bit_for_bit(problem, mapped):
    pytest.importorskip("ray")
    np.testing.assert_array_equal(answers(problem, mapped, "ray", workers=2), answers(problem))


# ---- what travels, and what is held ---------------------------------------------------------------------------------


def test_processes_of_this_machine_get_the_name_of_the_file_and_not_its_content(tmp_path):
    classes, examples, d = 40, 200, 256
    rng = np.random.default_rng(0)
    ys = np.repeat(np.arange(classes), examples)
    preds = np.where(rng.random(len(ys)) < 0.7, ys, -1 % classes)
    np.save(tmp_path / "val.npy", rng.standard_normal((len(ys), d), dtype=np.float32))
    latents = np.load(tmp_path / "val.npy", mmap_mode="r")
    fitter = SVMFitter(split_and_search=False, jobs=2)
    tracemalloc.start()
    fitter.fit(preds=preds, ys=ys, latents=latents)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < latents.nbytes / 2  # 8 MB, of which the check for nan reads 16,384 rows at a time as bools


class Recording(ThreadingBackend):
    """Stands for a cluster: notes how many bytes each task takes on the way to a worker."""

    sizes = []  # noqa: RUF012

    def submit(self, func, callback=None):
        self.sizes.append(len(pickle.dumps(func)))
        return super().submit(func, callback)


def test_a_cluster_gets_the_rows_of_each_class_once_and_a_few_classes_at_a_time(problem, mapped):
    register_parallel_backend("recording", Recording)
    Recording.sizes.clear()
    fitter = SVMFitter(jobs=2)
    with joblib.parallel_config("recording"):
        fitter.fit(preds=problem[0], ys=problem[1], latents=mapped)
    everything = mapped.nbytes + problem[1].size  # features, and whether each is right
    assert everything < sum(Recording.sizes) < 2 * everything
    assert max(Recording.sizes) < everything / 4


def test_what_images_look_like_is_scikit_learns_answer_from_a_map_in_parts(problem, mapped, monkeypatch):
    _, ys, latents = problem
    single = latents.astype(np.float32)
    reference = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto").fit(single, ys).predict(single)
    monkeypatch.setattr(label_noise, "CHUNK_NUMBERS", 100 * CLASSES)
    np.testing.assert_array_equal(looks_like(mapped, mapped, ys), reference)
    np.testing.assert_array_equal(looks_like(single, single, ys), reference)


def test_a_class_with_one_validation_image_is_looked_like_by_none(problem):
    _, ys, latents = problem
    lonely = ys.copy()
    lonely[0] = CLASSES
    assert set(looks_like(latents, latents, lonely)) == set(range(CLASSES))


def test_a_csv_that_is_made_in_parts_has_every_row_in_order(tmp_path, monkeypatch):
    monkeypatch.setattr(svm_results, "CSV_ROWS", 3)
    rng, names = np.random.default_rng(0), ["cat", "dog"]
    split = SplitResult(
        indices=np.arange(5, 12),
        classes=np.array([0, 1, 1, 0, 0, 1, 0]),
        preds=np.array([0, 1, 0, 0, 1, 1, 1]),
        ytrue=np.array([1, 1, 0, 1, 0, 1, 0]),
        ypred=np.array([1, 0, 0, 1, 1, 1, 0]),
        confs=rng.random(7, dtype=np.float32),
        decision_values=rng.standard_normal(7),
    )
    write_split_csv(tmp_path / "test.csv", split, names)
    with open(tmp_path / "test.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [int(row["index"]) for row in rows] == split.indices.tolist()
    assert [names.index(row["class_name"]) for row in rows] == split.classes.tolist()
    assert [names.index(row["pred_name"]) for row in rows] == split.preds.tolist()
    assert [row["flagged"] == "0" for row in rows] == (split.ypred == 1).tolist()
    values = [float(row["decision_value"]) for row in rows]
    np.testing.assert_allclose(values, split.decision_values, atol=1e-6)
    assert "spurious" not in rows[0]
    write_split_csv(tmp_path / "test.csv", replace(split, spuriouses=np.arange(7)), names)
    with open(tmp_path / "test.csv", newline="") as stream:
        assert [row["spurious"] for row in csv.DictReader(stream)] == list("0123456")


# ---- backends that are not there ------------------------------------------------------------------------------------


@pytest.fixture
def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.mark.parametrize("backend", ["spark", "dask:", "dask://", "dask://host", "ray://host:", "local://host:1"])
def test_an_unknown_backend_is_named_before_any_work(backend, tmp_path, capsys):
    arguments = ["-c", "none.yaml", "-s", "none.yaml", "--model-path", "none.pt", "--out-file", str(tmp_path / "out")]
    with pytest.raises(SystemExit) as stop:
        train_svms.main([*arguments, "--jobs-backend", backend])
    assert stop.value.code == 2
    assert capsys.readouterr().err.startswith(f"error: --jobs-backend {backend} is unknown; give local, dask")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["dask", "ray"])
def test_a_missing_package_is_named(name, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda package: None)
    with pytest.raises(UserError, match=rf"{name}, which is not installed: .*\[cluster\]"):
        JobsBackend.parse(name)


def test_a_scheduler_that_does_not_answer_is_named(free_port, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda package: True)
    for address in (f"dask://127.0.0.1:{free_port}", f"ray://127.0.0.1:{free_port}"):
        with pytest.raises(UserError, match=f"nothing answers at {address} .*; start the cluster, or correct it"):
            JobsBackend.parse(address)


def test_a_cluster_without_workers_is_named(monkeypatch):
    distributed = pytest.importorskip("distributed")
    monkeypatch.setattr(jobs, "WORKER_SECONDS", 0.2)
    with distributed.LocalCluster(
        n_workers=0, processes=False, protocol="tcp", dashboard_address="127.0.0.1:0"
    ) as cluster:
        backend = JobsBackend.parse(cluster.scheduler_address.replace("tcp", "dask"))
        with (
            pytest.raises(UserError, match=r"no SVM can be fitted on dask:.*(timed out|TimeoutError).*workers run"),
            backend.connected(),
        ):
            pass


def test_another_server_than_a_scheduler_is_named(monkeypatch):
    pytest.importorskip("distributed")
    monkeypatch.setattr(jobs, "CONNECT_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        backend = JobsBackend.parse(f"dask://127.0.0.1:{silent.getsockname()[1]}")
        with (
            pytest.raises(UserError, match=r"no SVM can be fitted on dask://.*see that its scheduler"),
            backend.connected(),
        ):
            pass
