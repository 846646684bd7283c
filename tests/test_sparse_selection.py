from types import SimpleNamespace

import numpy as np
import pytest
from failure_directions.runtime.errors import UserError
from failure_directions.sparse.selection import select_sparse_model

ACCURACY = np.array([0.10, 0.50, 0.78, 0.84, 0.90, 0.88])
NONZEROS = [0.0, 2.0, 6.0, 14.0, 40.0, 512.0]
PATH = SimpleNamespace(accuracy=ACCURACY, best=4, metrics=[{"nonzeros": nonzeros} for nonzeros in NONZEROS])


@pytest.mark.parametrize(
    ("criterion", "factor", "chosen"),
    [
        ("sparsity", 15, 3),
        ("sparsity", 5, 1),
        ("sparsity", 1000, 4),
        ("sparsity", None, 3),
        ("absolute", 6.5, 3),
        ("absolute", 12.5, 2),
        ("absolute", 0, 4),
        ("absolute", 100, 1),
        ("relative", 0.07, 3),
        ("relative", 0.14, 2),
        ("relative", 0, 4),
        ("percentile", 0.08, 3),
        ("percentile", 0.16, 2),
        ("percentile", 1, 1),
    ],
)
def test_each_rule_picks_the_layer_that_its_definition_says(criterion, factor, chosen):
    assert select_sparse_model(PATH, criterion, factor=factor) == chosen


@pytest.mark.parametrize("criterion", ["absolute", "relative", "percentile"])
def test_a_path_worse_than_no_features_still_gives_its_best(criterion):
    metrics = [{"nonzeros": 0.0}, {"nonzeros": 3.0}, {"nonzeros": 9.0}]
    path = SimpleNamespace(accuracy=np.array([0.0, -0.5, -0.2]), best=2, metrics=metrics)
    assert select_sparse_model(path, criterion, factor=0.01) == 2


def test_rules_that_nothing_meets_and_unknown_rules_are_refused():
    with pytest.raises(UserError, match="at most 1 features"):
        select_sparse_model(PATH, "sparsity", factor=1)
    empty = SimpleNamespace(accuracy=np.array([0.1]), best=0, metrics=[{"nonzeros": 0.0}])
    with pytest.raises(UserError, match="no layer of the path has a feature"):
        select_sparse_model(empty, "absolute")
    with pytest.raises(UserError, match="sparsest"):
        select_sparse_model(PATH, "sparsest")
    for criterion, factor in [("sparsity", -1), ("absolute", -1), ("relative", 1.5), ("percentile", float("nan"))]:
        with pytest.raises(UserError, match="factor"):
            select_sparse_model(PATH, criterion, factor=factor)
