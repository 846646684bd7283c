"""How the loss bends: the Gram matrix of the features, corrected by BFGS with the steps that were taken."""

import numpy as np
import torch

MEMORY = 5
"""Steps that BFGS remembers."""

MAX_FEATURES = 8192
"""A Gram matrix of more would take over 256 MiB."""


class Gram:
    """The weighted Gram matrix of standardised features, computed for features when they are first asked for.

    Args:
        rows: `StandardizedRows`.
        weights: (n,) float64 tensor, summing to 1, on the device of the rows.
    """

    def __init__(self, rows, weights):
        self.rows, self.weights = rows, weights
        self._forget()

    def _forget(self):
        self._known, self._matrix = np.empty(0, int), np.empty((0, 0), np.float32)

    def of(self, features):
        """(p + 1, p + 1) float32 of `features` (p,), at most MAX_FEATURES, and of the intercept, orthogonal to them."""
        new = np.setdiff1d(features, self._known)
        if len(new):
            d = self.rows.shape[1]
            if d <= MAX_FEATURES // 2:
                new = np.arange(d)  # all in one pass
            elif len(new) + len(self._known) > MAX_FEATURES:
                self._forget()
                new = features
            self._extend(new)
        if len(self._known) == len(features) == self.rows.shape[1]:
            chosen = self._matrix
        else:
            position = np.empty(self.rows.shape[1], int)
            position[self._known] = np.arange(len(self._known))
            chosen = self._matrix[np.ix_(position[features], position[features])]
        gram = np.zeros((len(features) + 1, len(features) + 1), np.float32)
        gram[:-1, :-1] = chosen
        gram[-1, -1] = 1
        return gram

    def _extend(self, new):
        """One pass over the rows."""
        old, known = len(self._known), np.concatenate([self._known, new])
        every_feature = len(new) == self.rows.shape[1]
        columns = torch.from_numpy(known).to(self.rows.device)
        cross = torch.zeros(len(known), len(new), device=self.rows.device)
        for where, block in self.rows.blocks(torch.float32):
            block = block if every_feature else block[:, columns]
            cross.addmm_(block.T, block[:, old:] * self.weights[where, None].float())
        cross = cross.cpu().numpy()
        matrix = np.empty((len(known), len(known)), np.float32)
        matrix[:old, :old] = self._matrix
        matrix[:, old:] = cross
        matrix[old:, :old] = cross[:old].T
        self._known, self._matrix = known, matrix


class CurvatureModel:
    """`B = diag(scale) x gram + sum_i signs[i] factors[..., i] factors[..., i]^T`, on some of the features.

    `scale` (classes,) is the mean second derivative of the loss by each class's score: B without the sum would be the
    second derivative of the loss if it were the same for all rows, and classes did not interact. The sum is BFGS: B
    maps the last steps to the changes of the gradient that were seen.
    """

    def __init__(self, gram):
        self._gram_of, self._pairs = gram, []
        self._features = None

    def restrict(self, features):
        """Make B one of `features` (p,) and the intercept; the same features as before cost nothing."""
        if self._features is not None and np.array_equal(features, self._features):
            return
        self._features = features
        self.gram = self._gram_of.of(features)
        self._columns = np.append(features, -1)
        self._images = [self._image(step[:, self._columns]) for step, _ in self._pairs]

    def _image(self, step):
        return step.astype(np.float32) @ self.gram

    def remember(self, step, change):
        """Learn from a step and the change of the gradient that it made, both (classes, d + 1)."""
        self._pairs = [*self._pairs, (step, change)][-MEMORY:]
        self._images = [*self._images, self._image(step[:, self._columns])][-MEMORY:]

    def update(self, scale):
        """Set `scale` (classes,) and fit the BFGS terms to it: `self.scale`, `self.factors`, `self.signs`."""
        factors, signs = [], []
        for (step, change), gram_image in zip(self._pairs, self._images, strict=True):
            step, change = step[:, self._columns], change[:, self._columns]
            image = scale[:, None] * gram_image
            for factor, sign in zip(factors, signs, strict=True):
                image += sign * np.vdot(factor, step) * factor
            by_model, by_loss = np.vdot(step, image), np.vdot(step, change)
            # What a tiny step changes is rounding.
            if by_model > 0 and by_loss > 1e-6 * by_model:
                factors += [change / np.sqrt(by_loss), image / np.sqrt(by_model)]
                signs += [1.0, -1.0]
        shape = len(scale), len(self.gram), len(signs)
        self.scale, self.signs = scale, np.array(signs)
        self.factors = np.stack(factors, axis=-1) if factors else np.zeros(shape)

    def bend(self, step):
        """`<step, B step>` of a step (classes, d + 1) within the features."""
        step = step[:, self._columns]
        along = np.tensordot(self.factors, step, axes=([0, 1], [0, 1]))
        return np.vdot(step, self.scale[:, None] * self._image(step)) + self.signs @ along**2
