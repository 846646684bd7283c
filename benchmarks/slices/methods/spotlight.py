"""Spotlight (d'Eon et al., FAccT 2022): spheres of high loss, found one after the other over all classes.

An image at distance r of a sphere's centre, in units of its radius, weighs max(0, 1 - r^2). The weighted mean loss is
maximised by Adam, while a barrier that tightens geometrically keeps a mass of at least 2 % of the images. Then the loss
is faded where the sphere shone. A sphere goes to the class that it holds most loss of.

1,000 steps at a rate of .03 stand for the paper's 5,000 at .01: on seed 0 of `several`, P@10 is .32 and .34.
"""

import numpy as np

from . import Slice
from ._tools import Coordinates, nearness

TITLE = "Spotlight"
SPHERES, LEAST_MASS, STEPS, RATE, PATIENCE, DECAY, BARRIER = 10, 0.02, 1000, 3e-2, 10, 0.5, 10.0


def fit(find):
    import torch

    torch.manual_seed(find.seed)
    coordinates = Coordinates(find.embeddings)
    points = coordinates(find.embeddings)
    scale = points.std()
    x = torch.from_numpy(points / scale).float()
    true = find.probs[np.arange(len(find.labels)), find.labels]
    loss = torch.from_numpy(-np.log(np.maximum(true, 1e-7))).float()
    slices = []
    for _ in range(SPHERES):
        centre, weights = _sphere(x, loss)
        held = np.bincount(find.labels, weights=(weights * loss).numpy(), minlength=find.num_classes)
        slices.append(Slice(int(held.argmax()), nearness(coordinates, centre.numpy() * scale)))
        loss = loss * (1 - weights / weights.max())
    return slices


def _sphere(x, loss):
    """Centre (d,) and weights (n,) of one sphere."""
    import torch

    n = len(x)
    least = LEAST_MASS * n
    centre = x.mean(0).clone().requires_grad_()
    log_precision = torch.tensor(float(np.log(0.01 / x.shape[1]))).requires_grad_()
    optimizer = torch.optim.Adam([centre, log_precision], lr=RATE)
    schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=PATIENCE, factor=DECAY)
    squares = (x**2).sum(1)
    margins = np.geomspace(n - least, 0.05 * least, STEPS)
    for margin in margins:
        distance = squares - 2 * (x @ centre) + (centre**2).sum()
        weights = (1 - distance * log_precision.exp()).clamp(min=0)
        mass = weights.sum()
        short = ((least + margin - mass) / margin).clamp(min=0)
        objective = -(weights * loss).sum() / (mass + 1e-6) + BARRIER * short**2
        optimizer.zero_grad()
        objective.backward()
        optimizer.step()
        if margin == margins[-1] or margin <= 0.06 * least:
            # Plateaus mean something only once the barrier has all but settled.
            schedule.step(objective.item())
            if optimizer.param_groups[0]["lr"] < 1e-5:
                break
    with torch.no_grad():
        distance = squares - 2 * (x @ centre) + (centre**2).sum()
        weights = (1 - distance * log_precision.exp()).clamp(min=0)
    if float(weights.sum()) < 1:  # the sphere has shrunk to nothing: the nearest images stand for it
        nearest = distance.topk(int(least), largest=False).indices
        weights = torch.zeros(n).index_fill(0, nearest, 1.0)
    return centre.detach(), weights
