"""Which layer of a path to read: the trade between accuracy and sparsity, by four rules."""

import numpy as np

from ..runtime.errors import UserError

DEFAULT_FACTORS = {"sparsity": 15.0, "absolute": 5.0, "relative": 0.05, "percentile": 0.05}


def select_sparse_model(path, selection_criterion="absolute", factor=None):
    """The index of the layer that a rule picks; by validation accuracy (training accuracy where there is none).

    Equally sparse layers: the more accurate. The layer without any feature is never picked.

    Args:
        selection_criterion: gives `factor` its meaning and its default:
            "sparsity": the most accurate layer with at most `factor` features per class on average (15).
            "absolute": the sparsest layer at most `factor` percentage points less accurate than the best one (5.0).
            "relative": the sparsest layer whose accuracy is at least (1 - factor) times that of the best one (0.05).
            "percentile": the sparsest layer that keeps at least the share (1 - factor) of the way from the accuracy of
                the model without features to that of the best one (0.05).

    Raises:
        UserError: another criterion, a factor out of range, or no layer that qualifies.
    """
    factor = check_selection(selection_criterion, factor)
    accuracy = path.accuracy
    nonzeros = np.array([row["nonzeros"] for row in path.metrics])
    if not nonzeros.any():
        raise UserError("no layer of the path has a feature; make a path with a smaller epsilon or more lambdas")
    best = accuracy[path.best]
    if selection_criterion == "sparsity":
        allowed = (nonzeros <= factor) & (nonzeros > 0)
        if not allowed.any():
            raise UserError(
                f"no layer of the path has at most {factor:g} features per class (the sparsest has "
                f"{nonzeros[nonzeros > 0].min():g}); give a larger factor or a path with more lambdas"
            )
        return int(np.argmax(np.where(allowed, accuracy, -np.inf)))
    floor = {
        "absolute": best - factor / 100,
        "relative": best * (1 - factor),
        "percentile": best - factor * (best - accuracy[0]),
    }[selection_criterion]
    # Where even the best is worse than no features (or has a negative R^2), the floor may lie above it.
    allowed = (accuracy >= min(floor, best)) & (nonzeros > 0)
    sparsest = allowed & (nonzeros == nonzeros[allowed].min())
    return int(np.argmax(np.where(sparsest, accuracy, -np.inf)))


def check_selection(selection_criterion, factor=None):
    """The factor, or the criterion's default.

    Raises:
        UserError: there is no such criterion, or the factor is out of its range.
    """
    if selection_criterion not in DEFAULT_FACTORS:
        raise UserError(
            f"there is no selection criterion {selection_criterion!r}; give one of {', '.join(DEFAULT_FACTORS)}"
        )
    factor = DEFAULT_FACTORS[selection_criterion] if factor is None else factor
    if not (factor >= 0 and (selection_criterion in ("sparsity", "absolute") or factor <= 1)):
        raise UserError(f"the factor {factor} does not suit the criterion {selection_criterion}; see its meaning")
    return factor
