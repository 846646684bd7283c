"""PlaneSpot (Plumb et al., TMLR 2023): a mixture in a plane of the embedding and the model's confidence.

The plane is t-SNE's of 50 principal coordinates, scaled to 0..1, beside .025 times the probability of the predicted
class; full Gaussians, 10 to 32 by BIC; slices by images times squared error rate, each for the class that it holds most
errors of. The paper's plane comes from a network that places new images; here a new image is put at the mean of its
five nearest. Scores leave the confidence out.
"""

import numpy as np

from . import Slice
from ._mixture import log_odds
from ._tools import Coordinates, remembered

TITLE = "PlaneSpot"


def fit(find):
    from scipy.spatial import cKDTree
    from sklearn.manifold import TSNE
    from sklearn.mixture import GaussianMixture

    coordinates = Coordinates(find.embeddings, dimensions=50)
    points = coordinates(find.embeddings)
    plane = TSNE(2, init="pca", random_state=find.seed).fit_transform(points).astype(float)
    plane = (plane - plane.min(0)) / np.ptp(plane, axis=0)
    tree = cKDTree(points)
    rows = np.column_stack([plane, 0.025 * find.probs.max(1)])
    tried = [GaussianMixture(k, random_state=find.seed).fit(rows) for k in range(10, 33, 2)]
    best = min(tried, key=lambda mixture: mixture.bic(rows))
    shares = best.predict_proba(rows)
    sizes = shares.sum(0)
    rates = shares.T @ find.wrong / (sizes + 1e-12)
    errors = np.stack([shares.T @ (find.wrong & (find.labels == label)) for label in range(find.num_classes)], 1)

    @remembered
    def joint(embeddings):
        place = plane[tree.query(coordinates(embeddings), 5)[1]].mean(1)
        return np.log(best.weights_) + _log_density(place, best.means_[:, :2], best.covariances_[:, :2, :2])

    def score(component):
        return lambda embeddings: log_odds(joint(embeddings), component)

    order = np.argsort(-sizes * rates**2, kind="stable")
    return [Slice(int(errors[k].argmax()), score(k)) for k in order]


def _log_density(points, means, covariances):
    centred = points[:, None] - means
    squares = np.einsum("nki,kij,nkj->nk", centred, np.linalg.inv(covariances), centred)
    return -0.5 * (squares + np.linalg.slogdet(2 * np.pi * covariances)[1])
