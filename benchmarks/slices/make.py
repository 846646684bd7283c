"""Make the settings of the slice benchmark: base models and embeddings, a file a setting and seed.

    python -m benchmarks.slices.make --data FOLDER --weights data/efficientnet_lite0.pt --out OUT
    python -m benchmarks.slices.make --out OUT       # no photographs: the drawn scenes alone

FOLDER holds CIFAR-10: as images SPLIT/CLASS/FILE, or as torchvision keeps it. scripts/efficientnet_lite_weights.py
writes the weights. Writes OUT/SETTING-seedS.npz; files that are there are kept, so that the command can be run again
after an interruption.
"""

import argparse
import hashlib
import time
from pathlib import Path

import numpy as np
from failure_directions.runtime.errors import UserError, entry_point
from failure_directions.runtime.files import atomic_path

from .photographs import read_photographs, with_look
from .planted import draw, fair_slices, read_setting, setting_names
from .scenes import draw_scenes, embed_scenes


@entry_point
def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="folder with CIFAR-10 (default: drawn scenes alone)")
    parser.add_argument("--weights", help="weights of timm's tf_efficientnet_lite0 (.pt), for photographs")
    parser.add_argument("--out", required=True, help="folder to write")
    parser.add_argument("--settings", nargs="+", help="which (default: all)")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(10)))
    parser.add_argument("--threads", type=int, help="threads of PyTorch")
    args = parser.parse_args(argv)
    settings = [read_setting(name) for name in args.settings or setting_names(photographs=bool(args.data))]
    of_photographs = [setting.name for setting in settings if setting.kind != "scenes"]
    if of_photographs and not args.data:
        raise UserError(f"the setting {of_photographs[0]} is of photographs; give their folder with --data")
    if of_photographs and not (args.weights and Path(args.weights).is_file()):
        raise UserError(f"weights {args.weights} do not exist; scripts/efficientnet_lite_weights.py writes them")
    if not args.data:
        print("no --data: the setting of drawn scenes alone")
    if args.threads:
        import torch

        torch.set_num_threads(args.threads)
    make(settings, args.seeds, args.data, args.weights, Path(args.out))


def make(settings, seeds, data, weights, out):
    """Write what is missing of `out`/SETTING-seedS.npz, seed by seed."""
    missing = [(seed, s) for seed in seeds for s in settings if not (out / f"{s.name}-seed{seed}.npz").is_file()]
    photographs = _Photographs(data, weights, out) if any(s.kind != "scenes" for _, s in missing) else None
    for seed, setting in missing:
        start = time.monotonic()
        if setting.kind == "scenes":
            images, training, looked_at = draw_scenes(setting, seed)
            embeddings = embed_scenes(images[looked_at.rows])
        else:
            images = photographs.images
            training, looked_at = draw(setting, photographs.subclasses, photographs.names, seed)
            embeddings = photographs.embeddings(setting, looked_at)
        probs, features = _outputs(setting, training, looked_at, images, seed, out / "models")
        preds = probs.argmax(1)
        with atomic_path(out / f"{setting.name}-seed{seed}.npz") as temporary, open(temporary, "wb") as stream:
            np.savez(
                stream,
                embeddings=embeddings,
                labels=looked_at.labels,
                preds=preds,
                probs=probs,
                features=features,
                slice=looked_at.slices,
                part=looked_at.part,
                lean=looked_at.lean,
                rows=looked_at.rows,
                looks=looked_at.looks,
                class_names=training.class_names,
                slice_names=looked_at.slice_names,
                setting=np.array([setting.name, setting.digest]),
            )
        print(f"{_described(setting, seed, looked_at, preds)}; {time.monotonic() - start:.0f} s", flush=True)


class _Photographs:
    """The photographs of the folder `data`, read once and kept in `out`, and their embeddings."""

    def __init__(self, data, weights, out):
        from .embedding import EmbeddingStore

        path = out / "photographs.npz"
        if not path.is_file():
            images, subclasses, names = read_photographs(data)
            with atomic_path(path) as temporary, open(temporary, "wb") as stream:
                np.savez(stream, images=images, subclasses=subclasses, names=names)
        with np.load(path, allow_pickle=False) as kept:
            self.images, self.subclasses, self.names = kept["images"], kept["subclasses"], kept["names"].tolist()
        self.store = EmbeddingStore(out / "embeddings", self.images, weights)

    def embeddings(self, setting, looked_at):
        """float32 (N, d) of the images looked at, each with its look."""
        found = {}
        for look in np.unique(looked_at.looks):
            members = np.flatnonzero(looked_at.looks == look)
            of_look = self.store.get(looked_at.rows[members], None if look < 0 else setting.looks[look])
            found |= dict(zip(members.tolist(), of_look, strict=True))
        return np.stack([found[i] for i in range(len(looked_at.looks))])


def _described(setting, seed, looked_at, preds):
    pool, right = looked_at.part == "pool", preds == looked_at.labels
    fair = fair_slices(looked_at.slices, looked_at.labels, right, pool)
    planted = pool & (looked_at.slices >= 0)
    on_planted, elsewhere = right[planted].mean(), right[pool & ~planted].mean()
    return (
        f"{setting.name} seed {seed}: accuracy {right[pool].mean():.3f}, on planted slices {on_planted:.3f}, "
        f"elsewhere {elsewhere:.3f}; {len(fair)} of {len(looked_at.slice_names)} slices fair"
    )


def _outputs(setting, training, looked_at, images, seed, folder):
    """Probabilities and features of the base model on the images looked at."""
    shown = shown_images(setting, images[training.rows], training.looks)
    model = kept_model(shown, training.labels, len(training.class_names), seed, folder)
    return model(shown_images(setting, images[looked_at.rows], looked_at.looks))


def kept_model(images, labels, num_classes, seed, folder):
    """The `BaseModel` of these images and this seed: trained once, and kept in a folder."""
    from failure_directions.models.build import build_model
    from failure_directions.runtime.pt_files import load_pt, save_pt

    from .base_model import BaseModel, train

    digest = hashlib.sha256(images.tobytes() + labels.tobytes() + bytes([seed])).hexdigest()[:12]
    path = Path(folder) / f"{digest}.pt"  # settings that train on the same images share it
    if not path.is_file():
        model = train(images, labels, num_classes, seed)
        save_pt({"state_dict": model.network.state_dict(), "mean": model.mean, "std": model.std}, path)
        return model
    kept = load_pt(path, "base model")
    network = build_model("cifar_resnet", "resnet10thin", num_classes)
    network.load_state_dict(kept["state_dict"])
    return BaseModel(network, kept["mean"], kept["std"])


def shown_images(setting, images, looks):
    """Images, each with its look."""
    images = images.copy()
    for number, look in enumerate(setting.looks):
        images[looks == number] = with_look(images[looks == number], look)
    return images


if __name__ == "__main__":
    main()
