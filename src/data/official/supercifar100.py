"""CIFAR-100 (Krizhevsky, 2009) by its 20 official superclasses; `spurious` is the fine class."""

from dataclasses import replace

import numpy as np

from ...runtime.errors import UserError
from ..image_sources import cifar_sources, group_classes

SUPERCLASSES = {
    "aquatic mammals": ["beaver", "dolphin", "otter", "seal", "whale"],
    "fish": ["aquarium_fish", "flatfish", "ray", "shark", "trout"],
    "flowers": ["orchid", "poppy", "rose", "sunflower", "tulip"],
    "food containers": ["bottle", "bowl", "can", "cup", "plate"],
    "fruit and vegetables": ["apple", "mushroom", "orange", "pear", "sweet_pepper"],
    "household electrical devices": ["clock", "keyboard", "lamp", "telephone", "television"],
    "household furniture": ["bed", "chair", "couch", "table", "wardrobe"],
    "insects": ["bee", "beetle", "butterfly", "caterpillar", "cockroach"],
    "large carnivores": ["bear", "leopard", "lion", "tiger", "wolf"],
    "large man-made outdoor things": ["bridge", "castle", "house", "road", "skyscraper"],
    "large natural outdoor scenes": ["cloud", "forest", "mountain", "plain", "sea"],
    "large omnivores and herbivores": ["camel", "cattle", "chimpanzee", "elephant", "kangaroo"],
    "medium mammals": ["fox", "porcupine", "possum", "raccoon", "skunk"],
    "non-insect invertebrates": ["crab", "lobster", "snail", "spider", "worm"],
    "people": ["baby", "boy", "girl", "man", "woman"],
    "reptiles": ["crocodile", "dinosaur", "lizard", "snake", "turtle"],
    "small mammals": ["hamster", "mouse", "rabbit", "shrew", "squirrel"],
    "trees": ["maple_tree", "oak_tree", "palm_tree", "pine_tree", "willow_tree"],
    "vehicles 1": ["bicycle", "bus", "motorcycle", "pickup_truck", "train"],
    "vehicles 2": ["lawn_mower", "rocket", "streetcar", "tank", "tractor"],
}


def supercifar100_sources(folder, download=False):
    """torchvision's CIFAR-100, train and test, with superclasses as labels."""
    return {split: to_superclasses(source) for split, source in cifar_sources("cifar100", folder, download).items()}


def to_superclasses(source):
    """A source with CIFAR-100's fine labels 0..99 as one with labels 0..19; `spurious` becomes the fine label."""
    fine = np.asarray(source.labels)
    outside = fine[(fine < 0) | (fine > 99)]
    if len(outside):
        raise UserError(f"CIFAR-100 has the fine label {outside[0]}, outside 0..99; its files are damaged")
    return replace(group_classes(source, list(SUPERCLASSES.values())), class_names=list(SUPERCLASSES))
