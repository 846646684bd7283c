"""Write the vocabularies that come from WordNet: src/captions/configs/cifar.yaml, imagenet.yaml, and the kinds of
things that ImageNet's classes are, src/captions/configs/kinds/imagenet.yaml.

    apt-get install wordnet-base
    python scripts/make_caption_configs.py

They are kept in the repository: run this after changing it, not to use them. Reads WordNet 3.0's `data.noun` and
`index.noun`, whose offsets are ImageNet's numbers (n02084071 is the synset at 02084071).
"""

import argparse
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import timm
import yaml
from failure_directions.runtime.errors import UserError, entry_point
from failure_directions.runtime.files import atomic_path
from failure_directions.runtime.yaml_files import dump_yaml
from torchvision.models._meta import _IMAGENET_CATEGORIES as IMAGENET_NAMES

CONFIGS = Path(__file__).resolve().parents[1] / "src" / "captions" / "configs"

# A class of CIFAR-10 may be called by the names of its hyponyms, those nearest to it first. 616 nouns x 9 adjectives x
# 12 places are 66,528 captions.
MAX_NOUNS = 616
CIFAR_SYNSETS = {
    "airplane": "airplane.1",
    "automobile": "car.1",
    "bird": "bird.1",
    "cat": "cat.1",
    "deer": "deer.1",
    "dog": "dog.1",
    "frog": "frog.1",
    "horse": "horse.1",
    "ship": "ship.1",
    "truck": "truck.1",
}

IMAGENET_ADJECTIVES = [
    *("white", "blue", "red", "green", "black", "yellow", "orange", "brown"),
    *("gray", "purple", "spotted", "striped"),
]
IMAGENET_PLACES = [
    "outside",
    "inside",
    *(f"on a {colour} background" for colour in ("black", "white", "green", "blue", "brown")),
]
# A class of ImageNet is called by the nearest of these among its WordNet ancestors, and may be at that one's places.
# One whose name is in brackets is too vague to be called by (a sundial is not shown as "an instrument"): its classes
# keep their own names, the nearest ancestor of all.
ANCESTORS = {
    "dog.1": "on the grass; in the snow; in the water; on a couch; on a leash; with a person",
    "[canine.2]": "on the grass; in the snow; in the forest; in a zoo",
    "domestic cat.1": "on the grass; on a couch; on a bed; by a window; in a box; with a person",
    "big cat.1": "on the grass; in the snow; in a tree; in a zoo",
    "[feline.1]": "on the grass; in the snow; in a tree; in a zoo",
    "bear.1": "on the grass; in the snow; in the water; in the forest; in a zoo",
    "monkey.1": "in a tree; on the ground; in a zoo; with a person",
    "ape.1": "in a tree; on the ground; in a zoo",
    "[primate.2]": "in a tree; on the ground; in a zoo",
    "rabbit.1": "on the grass; in the snow; in a cage; with a person",
    "rodent.1": "on the grass; in a tree; in a cage; in a hand",
    "[hoofed mammal.1]": "on the grass; in a field; in the snow; in a zoo; with a rider",
    "elephant.1": "on the grass; in the water; in a zoo; with a rider",
    "whale.2": "in the water; under water; on the beach",
    "seal.9": "in the water; under water; on the beach",
    "marsupial.1": "on the grass; in a tree; in a zoo; with a person",
    "[mammal.1]": "on the grass; in the snow; in the water; in a tree; in a zoo",
    "aquatic bird.1": "flying; in the water; on the beach; on the grass; in the snow",
    "bird.1": "flying; perched; on the ground; on the grass; in the snow; in a cage",
    "shark.1": "in the water; under water; in an aquarium",
    "fish.1": "in the water; under water; in an aquarium; in a hand; on a plate",
    "frog.1": "on the ground; on a leaf; in the water; in a hand",
    "salamander.1": "on the ground; on a leaf; in the water; in a hand",
    "snake.1": "on the ground; in the sand; in a tree; in a hand",
    "lizard.1": "on the ground; on a rock; in a tree; in a hand",
    "turtle.2": "on the ground; in the sand; in the water; in a hand",
    "crocodilian reptile.1": "on the ground; in the water; in a zoo",
    "dinosaur.1": "on the grass; in a museum",
    "spider.1": "in a web; on a leaf; on the ground; in a hand",
    "[arachnid.1]": "on a leaf; on the ground; in a hand",
    "butterfly.1": "on a flower; on a leaf; on the ground; in a hand",
    "insect.1": "on a flower; on a leaf; on the ground; in a hand; flying",
    "[crustacean.1]": "in the water; on the beach; on a plate; in a hand",
    "[mollusk.1]": "in the water; on the beach; on a leaf; in a hand",
    "[invertebrate.1]": "in the water; under water; on the ground; in a hand",
    "car.1": "on the road; in a parking lot; in the snow; in a showroom; at night",
    "truck.1": "on the road; in a parking lot; in the snow; on a construction site; at night",
    "bus.1": "on the road; in a parking lot; in the snow; at night",
    "bicycle.1": "on the road; on the grass; in the snow; against a wall; with a rider",
    "motorcycle.1": "on the road; on the grass; in a parking lot; with a rider",
    "train.1": "on the rails; in a station; in the snow; at night",
    "locomotive.1": "on the rails; in a station; in the snow; at night",
    "ship.1": "in the ocean; docked; on the horizon; at night",
    "boat.1": "in the water; docked; on the beach; on the horizon; with a person",
    "aircraft.1": "in the air; on the runway; in a hangar; on the grass",
    "[vehicle.1]": "on the road; on the grass; in the snow; in a museum; with a person",
    "building.1": "on a hill; in a city; in the snow; at night",
    "bridge.1": "over water; in a city; in the snow; at night",
    "fence.1": "on the grass; in the snow; in front of a house",
    "shop.1": "in a city; full of people; at night",
    "[structure.1]": "on a hill; in a city; in the snow; at night; full of people",
    "[seat.3]": "on the grass; in a living room; by a window; with a person",
    "table.2": "in a living room; in a kitchen; in an office; with food",
    "bed.1": "in a bedroom; by a window; with a person",
    "[furniture.1]": "in a living room; in a kitchen; in an office; in a bedroom",
    "hat.1": "on a head; on a table; in a shop; on a hook",
    "[headdress.1]": "on a head; on a table; in a shop",
    "[garment.1]": "worn by a man; worn by a woman; worn by a child; on a hanger; on a bed",
    "[clothing.1]": "worn by a man; worn by a woman; worn by a child; on a table; in a shop",
    "[footwear.2]": "on a foot; on the floor; in a shop",
    "[musical instrument.1]": "played by a person; on a stage; on the floor; in a case",
    "[weapon.1]": "in a hand; on a table; in a museum",
    "ball.1": "on the grass; in a hand; in a stadium; on a table",
    "[game equipment.1]": "on the grass; in a gym; on a table; in use",
    "[tool.1]": "in a hand; on a table; on a wall; in a workshop",
    "[kitchen utensil.1]": "in a hand; on a table; on a stove; in a kitchen; with food",
    "[home appliance.1]": "in a kitchen; on a table; on the floor; with food",
    "bottle.1": "in a hand; on a table; in a kitchen; on a shelf",
    "cup.1": "in a hand; on a table; in a kitchen; on a shelf",
    "[bag.1]": "on a shoulder; on a table; on the floor; in a shop",
    "basket.1": "in a hand; on a table; on the floor; with food",
    "[box.1]": "on a table; on the floor; on the street; in a shop",
    "[vessel.3]": "on a table; in a kitchen; on the floor; with food",
    "[container.1]": "on a table; on the floor; on the street; in a shop",
    "[computer.1]": "on a desk; on a lap; in an office; with a person",
    "telephone.1": "in a hand; on a desk; on a wall; with a person",
    "[electronic equipment.1]": "in a hand; on a desk; on a wall; in a living room",
    "timepiece.1": "on a wrist; on a wall; on a desk; on a building",
    "[machine.1]": "in a hand; on a desk; on the street; in an office; in a workshop",
    "[instrument.1]": "in a hand; on a desk; on a wall; in a laboratory",
    "[fabric.1]": "on a bed; on a table; on the floor; on a wall",
    "[fruit.1]": "on a tree; on a table; in a basket; in a hand; cut in half",
    "[vegetable.1]": "on a table; in a basket; in a field; in a hand; on a plate",
    "bread.1": "on a table; on a plate; in a basket; in a hand",
    "[beverage.1]": "in a cup; in a glass; on a table; in a hand",
    "[dish.2]": "on a plate; in a bowl; on a table; in a hand",
    "[solid food.1]": "on a plate; in a bowl; on a table; in a hand",
    "[food.1]": "on a plate; in a bowl; on a table; in a hand",
    "flower.1": "in a field; in a vase; in a hand",
    "fungus.1": "in the forest; on a tree; on the grass; in a hand",
    "[geological formation.1]": "at sunset; in the snow; under a blue sky; with people",
    "[person.1]": "on the grass; under water; in a crowd; in a stadium",
}


@dataclass(frozen=True)
class Synset:
    lemmas: list[str]
    hypernyms: list[str]
    hyponyms: list[str]
    gloss: str


class WordNet:
    """The nouns of WordNet's database files (format: wndb(5WN)). A synset goes by its offset, a string of 8 digits."""

    def __init__(self, folder):
        data, index = Path(folder) / "data.noun", Path(folder) / "index.noun"
        for path in (data, index):
            if not path.is_file():
                raise UserError(f"{path} does not exist; install WordNet (apt-get install wordnet-base)")
        lines = data.read_text().splitlines()
        # The licence stands at the head, in lines that begin with blanks and a number.
        self.licence = [re.sub(r"^ +\d+ ?", "", line).rstrip() for line in lines if line.startswith("  ")]
        self.synsets = dict(map(_read_synset, (line for line in lines if not line.startswith("  "))))
        self.senses, self.ranked = {}, {}  # lemma -> offsets, the most frequent first; whether frequencies are known
        for line in index.read_text().splitlines():
            if not line.startswith("  "):
                lemma, _, count, *rest = line.split()
                self.senses[lemma] = rest[-int(count) :]
                self.ranked[lemma] = int(rest[-int(count) - 1]) > 0

    def synset(self, name):
        """The offset of such as "domestic cat.1": the first sense of "domestic cat"."""
        lemma, sense = name.rsplit(".", 1)
        return self.senses[lemma.replace(" ", "_")][int(sense) - 1]

    def hyponyms(self, offset):
        """`offset` and all that it includes, breadth first."""
        return self._closure(offset, "hyponyms")

    def hypernyms(self, offset):
        """`offset` and all that includes it, breadth first: the nearest ancestors come first."""
        return self._closure(offset, "hypernyms")

    def _closure(self, offset, relation):
        found = [offset]
        for member in found:  # grows on the way
            found += [other for other in getattr(self.synsets[member], relation) if other not in found]
        return found

    def common_name(self, offset):
        """The best of a synset's lemmas to show a reader, or None.

        The first that means it before all else, since a "bottom" is seldom a ship; failing that, the first of which
        WordNet has no frequencies, so that the bird "ostrich" is as good as the person. Never the Latin one.
        """
        lemmas = [lemma for lemma in self.synsets[offset].lemmas if not self._is_latin(lemma)]
        for lemma in lemmas:
            if self.senses[lemma.lower()][0] == offset:
                return lemma.replace("_", " ")
        unranked = [lemma for lemma in lemmas if not self.ranked[lemma.lower()]]
        return unranked[0].replace("_", " ") if unranked else None

    def _is_latin(self, lemma):
        return lemma[0].isupper() and f"genus_{lemma.split('_')[0].lower()}" in self.senses


def _read_synset(line):
    fields, _, gloss = line.partition(" | ")
    offset, _, _, count, *rest = fields.split()
    lemmas, rest = rest[: 2 * int(count, 16) : 2], rest[2 * int(count, 16) :]
    pointers = list(zip(rest[1::4], rest[2::4], strict=False))
    return offset, Synset(
        lemmas=lemmas,
        hypernyms=[other for symbol, other in pointers if symbol in ("@", "@i")],
        hyponyms=[other for symbol, other in pointers if symbol == "~"],
        gloss=gloss,
    )


def cifar_nouns(wordnet, synset_names):
    """What each class may be called: its name, then the names of its hyponyms but for extinct animals.

    synset_names: dict class name -> such as "car.1". A name that fits two classes ("minivan") is left to neither.
    Returns a dict class name -> at most `MAX_NOUNS` names.
    """
    names = {}
    for class_name, synset_name in synset_names.items():
        kinds = wordnet.hyponyms(wordnet.synset(synset_name))
        living = [kind for kind in kinds if "extinct" not in wordnet.synsets[kind].gloss]
        names[class_name] = [class_name, *filter(None, map(wordnet.common_name, living))]
    uses = Counter(name for of_class in names.values() for name in set(of_class))
    return {
        class_name: list(dict.fromkeys(name for name in of_class if uses[name] == 1))[:MAX_NOUNS]
        for class_name, of_class in names.items()
    }


def cifar_text(wordnet, simple):
    """cifar.yaml: the grammar of cifarsimple.yaml (`simple`, its content) with more nouns."""
    lines = [
        "# CIFAR-10: the colours and places of cifarsimple.yaml, and the names of each class's hyponyms in WordNet,",
        "# 1,980 (truck) to 66,384 (bird) captions a class.",
        *_notice(wordnet),
        f"adjectives: {_flow(simple['adjectives'])}",
        "prepositions:",
        *(f"- {place}" for place in simple["prepositions"]),
        "classes:",
    ]
    nouns = cifar_nouns(wordnet, CIFAR_SYNSETS)
    for name, entry in simple["classes"].items():
        lines += [
            f"  {name}:",
            f"    prepositions: {_flow(entry['prepositions'])}",
            "    nouns:",
            *(f"    - {_text(noun)}" for noun in nouns[name]),
        ]
    return "\n".join(lines) + "\n"


def nearest_ancestor(wordnet, offset, ancestors=tuple(ANCESTORS)):
    """The nearest of `ancestors`, such as "dog.1" or "[tool.1]", among a synset and its hypernyms, or None."""
    names = {wordnet.synset(name.strip("[]")): name for name in ancestors}
    return next((names[hypernym] for hypernym in wordnet.hypernyms(offset) if hypernym in names), None)


def imagenet_text(wordnet, wnids, names):
    """imagenet.yaml: every class under its name and under its number."""
    lines = [
        "# ImageNet's 1,000 classes, each under its name (torchvision's) and its WordNet number: the nearest telling",
        "# ancestor in WordNet, with colours and places where such a thing is found, 104 to 182 captions a class.",
        *_notice(wordnet),
        f"adjectives: {_flow(IMAGENET_ADJECTIVES)}",
        "prepositions:",
        *(f"- {place}" for place in IMAGENET_PLACES),
        "classes:",
    ]
    anchors = set()
    for wnid, name in zip(wnids, names, strict=True):
        ancestor = nearest_ancestor(wordnet, wnid.removeprefix("n"))
        if ancestor is None:
            lines += [f"  {_text(name)}:", f"  {wnid}: {{name: {_text(name)}}}"]
            continue
        vague = ancestor.startswith("[")
        called = ancestor.strip("[]").rsplit(".", 1)[0]
        anchor = called.replace(" ", "-")
        if anchor in anchors:
            places = f"*{anchor}"
        else:
            anchors.add(anchor)
            places = f"&{anchor} {_flow(ANCESTORS[ancestor].split('; '))}"
        label = _text(name) if vague else called
        lines += [
            f"  {_text(name)}: {{name: {label}, prepositions: {places}}}",
            f"  {wnid}: {{name: {label}, prepositions: *{anchor}}}",
        ]
    return "\n".join(lines) + "\n"


def kinds_of(wordnet, wnids):
    """What several classes are, by WordNet: dict name -> positions in `wnids`, most classes first.

    Of names for the same classes the nearest to them stays, and a kind of more than half of the classes says nothing.
    """
    members = {}
    for position, wnid in enumerate(wnids):
        for ancestor in wordnet.hypernyms(wnid.removeprefix("n"))[1:]:
            members.setdefault(ancestor, []).append(position)
    named = {}
    for ancestor, of in members.items():  # of those of the same classes, the nearest was met first
        name = wordnet.common_name(ancestor)
        if name and 2 <= len(of) <= len(wnids) // 2 and name not in named and of not in named.values():
            named[name] = of
    return dict(sorted(named.items(), key=lambda item: (-len(item[1]), item[0])))


def kinds_text(wordnet, wnids):
    """kinds/imagenet.yaml: a line a kind, with the positions of its classes as ranges."""
    lines = [
        "# What several of ImageNet's 1,000 classes are: the positions of these classes in the order of their numbers.",
        *_notice(wordnet),
    ]
    lines += [f"{_text(name)}: {_ranges(positions)}" for name, positions in kinds_of(wordnet, wnids).items()]
    return "\n".join(lines) + "\n"


def _ranges(numbers):
    """Rising numbers as "1-3, 5"."""
    groups = []
    for number in numbers:
        if groups and groups[-1][-1] == number - 1:
            groups[-1].append(number)
        else:
            groups.append([number])
    return f'"{", ".join(f"{group[0]}-{group[-1]}" if len(group) > 1 else str(group[0]) for group in groups)}"'


def _notice(wordnet):
    return ["# Made by scripts/make_caption_configs.py from WordNet, whose licence says:", "#"] + [
        f"# {line}".rstrip() for line in wordnet.licence
    ]


def _text(value):
    """YAML of a string, in quotes where it must be."""
    return dump_yaml(value, width=1000).removesuffix("...\n").strip()


def _flow(values):
    """YAML of a list of strings on one line."""
    return f"[{', '.join(map(_text, values))}]"


def parse_arguments(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wordnet", default="/usr/share/wordnet", help="folder with data.noun and index.noun")
    parser.add_argument("--out", default=CONFIGS, help="folder to write to")
    return parser.parse_args(argv)


@entry_point
def main(argv=None):
    args = parse_arguments(argv)
    wordnet = WordNet(args.wordnet)
    simple = yaml.safe_load((CONFIGS / "cifarsimple.yaml").read_text())
    wnids = (Path(timm.__file__).parent / "data" / "_info" / "imagenet_synsets.txt").read_text().split()
    for name, text in (
        ("cifar.yaml", cifar_text(wordnet, simple)),
        ("imagenet.yaml", imagenet_text(wordnet, wnids, IMAGENET_NAMES)),
        ("kinds/imagenet.yaml", kinds_text(wordnet, wnids)),
    ):
        with atomic_path(Path(args.out) / name) as temporary:
            temporary.write_text(text)
        print(f"{Path(args.out) / name}: {len(text) / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
