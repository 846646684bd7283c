"""What a deep feature of an image model looks at: its top images, where in them, and an image that it likes best."""

import numpy as np
import torch
from captum.attr import Occlusion
from torch import nn
from torch.nn import functional as F

from ...models.features import FeatureExtractor

# Colours of natural images are correlated: the square root of the covariance of red, green and blue in ImageNet, as
# published with "Feature Visualization" (Olah, Mordvintsev, Schubert; Distill 2017).
_COLOUR_SQRT = ((0.26, 0.09, 0.02), (0.27, 0.00, -0.05), (0.27, -0.09, 0.03))


class DeepFeatures(nn.Module):
    """A model up to its last linear layer: images (B, 3, H, W) -> features (B, d)."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, images):
        with FeatureExtractor(self.model) as extractor:
            return extractor(images)[1]


def collect_inputs(batches, positions):
    """The model inputs at some positions of a split, in that order, as one tensor on the CPU.

    Args:
        batches: iterable of (inputs, positions), as `ModelInputs.batches()` gives it; read as far as needed.
        positions: ints, of any shape; repeats are welcome.
    """
    wanted, found = set(np.unique(positions).tolist()), {}
    for inputs, numbers in batches:
        for row in np.flatnonzero(np.isin(numbers, list(wanted))):
            found[int(numbers[row])] = inputs[int(row)].cpu().clone()
        if len(found) == len(wanted):
            break
    return torch.stack([found[int(position)] for position in np.ravel(positions)])


def to_pixels(inputs, mean, std):
    """Model inputs (N, 3, H, W) as images, uint8 (N, H, W, 3); mean and std (3,) on the 0..1 scale."""
    mean, std = (torch.as_tensor(value, dtype=torch.float32).view(3, 1, 1) for value in (mean, std))
    images = (inputs.float() * std + mean).clamp(0, 1) * 255
    return images.round().to(torch.uint8).permute(0, 2, 3, 1).numpy()


@torch.no_grad()
def attribute_feature(model, images, features, device="cpu"):
    """By how much a feature's activation falls where a patch of the image is hidden: occlusion, by Captum.

    Args:
        model: as `last_linear` knows it.
        images: (N, 3, H, W) model inputs.
        features: N numbers, one an image.

    Returns:
        (N, H, W) float32. The patch is a quarter of the side, moves by half of that, and is the mean colour (0).
    """
    images = images.to(device)
    side = max(1, min(images.shape[2:]) // 4)
    maps = Occlusion(DeepFeatures(model.eval().to(device))).attribute(
        images,
        target=torch.as_tensor(np.array(features), device=device),
        sliding_window_shapes=(images.shape[1], side, side),
        strides=(images.shape[1], max(1, side // 2), max(1, side // 2)),
    )
    return maps[:, 0].float().cpu().numpy()


def highlight(image, attribution):
    """An image with all but what raises the feature greyed out, uint8 (H, W, 3)."""
    strength = np.clip(attribution, 0, None)
    strength = strength / max(strength.max(), 1e-12)
    grey = 0.6 * 255
    return (grey + (image - grey) * (0.15 + 0.85 * strength[..., None])).round().astype(np.uint8)


def visualise_features(model, features, size, mean, std, *, signs=None, steps=256, lr=0.05, seed=0, device="cpu"):
    """Images that activate features most, by gradient ascent (Olah, Mordvintsev, Schubert; Distill 2017).

    The image is parametrised by its Fourier spectrum, every frequency scaled alike, in colours decorrelated as in
    natural images; in each step it is shifted, turned and zoomed a little, so that it does not hang on single pixels.

    Args:
        features: numbers of n features.
        size: side of the images, pixels.
        mean, std: (3,) of the model's normalisation, on the 0..1 scale.
        signs: n times 1 or -1, for an image that activates a feature least.

    Returns:
        uint8 (n, size, size, 3); the same for the same seed and device.
    """
    device = torch.device(device)
    deep = DeepFeatures(model.eval().to(device))
    n = len(features)
    signs = torch.ones(n) if signs is None else torch.as_tensor(np.array(signs), dtype=torch.float32)
    signs, numbers = signs.to(device), torch.as_tensor(np.array(features), device=device)
    mean, std = (torch.as_tensor(value, dtype=torch.float32, device=device).view(3, 1, 1) for value in (mean, std))
    generator = torch.Generator().manual_seed(seed)
    frequencies = torch.hypot(torch.fft.fftfreq(size)[:, None], torch.fft.rfftfreq(size)[None])
    scale = (1 / frequencies.clamp(min=1 / size)).to(device)
    colours = torch.tensor(_COLOUR_SQRT, device=device)
    colours = colours / colours.norm(dim=0).max()
    # Noise that is seen, not grey: a feature behind a ReLU may be 0 there, without a gradient.
    spectrum = 0.3 * torch.randn(n, 3, *frequencies.shape, 2, generator=generator)
    spectrum = spectrum.to(device).requires_grad_()

    def image():
        planes = torch.fft.irfft2(torch.view_as_complex(spectrum) * scale, s=(size, size), norm="ortho") / 4
        return torch.sigmoid(torch.einsum("ij,njhw->nihw", colours, planes))

    optimizer = torch.optim.Adam([spectrum], lr=lr)
    for _ in range(steps):
        seen = deep((_jostle(image(), generator) - mean) / std)
        activation = seen[torch.arange(n, device=device), numbers]
        (spectrum.grad,) = torch.autograd.grad(-(signs * activation).sum(), [spectrum])
        optimizer.step()
    with torch.no_grad():
        return to_pixels(image().cpu(), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


def _jostle(images, generator):
    """Images shifted by at most a sixteenth of the side, turned by 5 degrees and zoomed by a tenth, at random."""
    n = len(images)
    random = 2 * torch.rand(n, 4, generator=generator) - 1
    angle, zoom = random[:, 0] * np.deg2rad(5), 1 + 0.1 * random[:, 1]
    cos, sin = torch.cos(angle) * zoom, torch.sin(angle) * zoom
    shift = random[:, 2:] / 8  # of the grid, which spans 2
    affine = torch.stack([torch.stack([cos, -sin, shift[:, 0]], 1), torch.stack([sin, cos, shift[:, 1]], 1)], 1)
    grid = F.affine_grid(affine.to(images.device), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)
