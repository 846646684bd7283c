"""Names the packages that `pip install .` offers: `src` goes by the name failure_directions, sub-packages included.

Everything else is in pyproject.toml, where setuptools cannot find packages under another name than their folder's.
"""

from setuptools import find_namespace_packages, setup

# Namespace packages too: setuptools counts a plain folder of data below a package as one.
caches = ["*__pycache__"]
setup(
    package_dir={"failure_directions": "src"},
    packages=[
        "failure_directions",
        *(f"failure_directions.{name}" for name in find_namespace_packages("src", exclude=caches)),
        *find_namespace_packages(include=["dataset_interfaces", "dataset_interfaces.*"], exclude=caches),
    ],
)
