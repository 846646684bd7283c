"""Waterbirds (Sagawa et al., ICLR 2020): birds pasted onto places, of which 95 % agree with the bird in train.

Official files: `metadata.csv` and the images beside it, in the folder `waterbird_complete95_forest2water2/`.
"""

from ..image_sources import ImageFiles
from .files import SPLIT_NUMBERS, by_split, codes, listed_images, official_path, read_table

ORIGIN = "https://nlp.stanford.edu/data/dro/waterbird_complete95_forest2water2.tar.gz"
CLASSES = ["landbird", "waterbird"]
BINARY = {"0": 0, "1": 1}


def waterbirds_sources(folder):
    """Train, val and test as metadata.csv has them: landbird 0, waterbird 1; `spurious` land 0, water 1."""
    listing = official_path(folder, ["metadata.csv", "waterbird_complete95_forest2water2/metadata.csv"], ORIGIN)
    rows = read_table(listing, ["img_filename", "y", "split", "place"])
    everything = ImageFiles(
        listed_images(listing.parent, [row["img_filename"] for row in rows], listing),
        codes(listing, "y", (row["y"] for row in rows), BINARY),
        CLASSES,
        codes(listing, "place", (row["place"] for row in rows), BINARY),
    )
    splits = codes(listing, "split", (row["split"] for row in rows), SPLIT_NUMBERS)
    return by_split(everything, splits)
