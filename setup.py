"""Names the packages that are installed: `src` goes by the name failure_directions, sub-packages included.

Everything else is in pyproject.toml, where setuptools cannot find packages under another name than their folder's.
Configs, index files and the caption sets travel with the package: commands find them by name.
"""

from setuptools import find_namespace_packages, setup

# Namespace packages too: setuptools counts a plain folder of data below a package as one.
caches = ["*__pycache__"]
setup(
    package_dir={
        "failure_directions": "src",
        "failure_directions.dataset_configs": "dataset_configs",
        "failure_directions.svm_configs": "svm_configs",
        "failure_directions.index_files": "index_files",
    },
    packages=[
        "failure_directions",
        *(f"failure_directions.{name}" for name in find_namespace_packages("src", exclude=caches)),
        "failure_directions.dataset_configs",
        "failure_directions.svm_configs",
        "failure_directions.index_files",
        "dataset_interfaces",
    ],
)
