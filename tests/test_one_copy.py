"""The package's two names are one copy in a process; a checkout runs by way of `src` where nothing is installed."""

import subprocess
import sys

import pytest
from environments import ROOT, copy_checkout, make_environment, run

# Both names, and the published package beside them: the same modules, the same errors.
ONE_COPY = """
import src.svm_utils, failure_directions.svm_utils
import src.runtime.errors, failure_directions.runtime.errors
import dataset_interfaces, dataset_interfaces.inference_utils
import src.interfaces.inference_utils

assert src is failure_directions
assert src.svm_utils is failure_directions.svm_utils
assert src.SVMFitter is failure_directions.svm_utils.SVMFitter
assert src.runtime.errors is failure_directions.runtime.errors
assert dataset_interfaces.UserError is src.runtime.errors.UserError
assert dataset_interfaces.inference_utils.clip_similarity is src.interfaces.inference_utils.clip_similarity

from src.config_parsing import load_dataset_config
from failure_directions.config_parsing import load_svm_config
for load, expected in (
    (load_dataset_config, failure_directions.runtime.errors.UserError),
    (load_svm_config, src.runtime.errors.UserError),
    (dataset_interfaces.load_shifts, src.runtime.errors.UserError),
    (dataset_interfaces.load_shifts, failure_directions.runtime.errors.UserError),
):
    try:
        load("there/is/none.yaml")
    except expected as error:
        assert "there/is/none.yaml" in str(error)
    else:
        raise AssertionError(f"{load} raised nothing")
"""
HELP = {
    "ffcv_main.py": "--exp-name",
    "train_svms.py": "--svm-config",
    "sparse_main.py": "--out-path",
    "generate_images.py": "--captions",
    "visualization_utils.py": "--report",
    "scripts/make_betons.py": "scenes",
    "scripts/make_index_files.py": "--beton",
    "-m dataset_interfaces": "benchmark",
}


@pytest.mark.parametrize(
    "first", ["import src.svm_utils", "import failure_directions.svm_utils", "import dataset_interfaces"]
)
def test_both_names_are_one_copy_whichever_comes_first(first):
    done = subprocess.run([sys.executable, "-c", first + ONE_COPY], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# ---- a checkout in an environment where requirements.txt alone is installed


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A copy of the checkout, and the python of an environment that does not have the project."""
    python, _ = make_environment(tmp_path_factory.mktemp("environment"))
    checkout = copy_checkout(tmp_path_factory.mktemp("checkout"))
    code = "import importlib.util as util; print(util.find_spec('failure_directions'), util.find_spec('src'))"
    assert run(python, "python", "-c", code, cwd=checkout.parent).stdout.split() == ["None", "None"]
    return checkout, python


@pytest.mark.parametrize("script", HELP)
def test_a_checkout_that_is_not_installed_runs_its_scripts(checkout, script):
    folder, python = checkout
    done = run(python, "python", *script.split(), "--help", cwd=folder)
    assert done.returncode == 0, done.stderr
    name = f"python {script}" if script.startswith("-m") else script.rpartition("/")[2]
    assert done.stdout.startswith(f"usage: {name} ")
    assert HELP[script] in done.stdout


def test_a_checkout_that_is_not_installed_has_one_copy_too(checkout):
    folder, python = checkout
    done = run(python, "python", "-c", "import src" + ONE_COPY, cwd=folder)
    assert done.returncode == 0, done.stderr


def test_the_names_for_notebooks_are_there_without_installing(checkout):
    folder, python = checkout
    code = (
        "from clip_utils import CLIPProcessor, CaptionGenerator, get_caption_set\n"
        "from visualization_utils import ClipAnalyzer, SVMProcessor\n"
        "import src; assert SVMProcessor is src.SVMProcessor and CLIPProcessor is src.CLIPProcessor\n"
    )
    done = run(python, "python", "-c", code, cwd=folder)
    assert done.returncode == 0, done.stderr
