"""Candidate captions of every class: a small grammar over vocabularies that are kept in readable YAML.

    a photo of a {adjective} {noun} {preposition}

    caption_set = get_caption_set("CIFARSIMPLE")        # or the path of a file of your own
    cat = caption_set.for_class("cat")
    cat.reference                                       # "a photo of a cat"
    cat.captions("all")                                 # [..., "a photo of a white cat in the snow", ...]

A file holds what `CaptionFile` and `ClassEntry` list; `configs/` has the shipped ones. The grammar and the idea
of scoring its captions are from "Distilling Model Failures as Directions in Latent Space", Jain et al., ICLR 2023.
"""

import itertools
import re
import reprlib
import string
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, field_validator, model_validator

from ..runtime.english import nearest, plain_name, some, with_article
from ..runtime.errors import UserError
from ..runtime.yaml_files import read_yaml

KINDS = ("all", "noun", "adj", "prep")
MODIFIERS = ("adjective", "preposition")
MAX_CANDIDATES = 1_000_000  # of a class: 2 GiB of embeddings at 512 coordinates

_FOLDER = Path(__file__).with_name("configs")
CAPTION_SETS = tuple(sorted(path.stem.upper() for path in _FOLDER.glob("*.yaml")))


# ---------------------------------------------------------------------------------------------------------------------
# Files
# ---------------------------------------------------------------------------------------------------------------------

Phrase = Annotated[str, StringConstraints(strip_whitespace=True)]
Noun = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]


class _Vocabulary(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class ClassEntry(_Vocabulary):
    """How one class may be described. Its own adjectives and prepositions come after those for all classes."""

    name: Noun | None = Field(None, description="what to call the class; by default its name in the data set")
    nouns: list[Noun] | None = Field(None, min_length=1, description="what may stand for the class; by default `name`")
    adjectives: list[Phrase] = []
    prepositions: list[Phrase] = []
    excludes: list[Noun] = Field([], description="words and phrases that would contradict the class")
    reference: Noun | None = Field(None, description="what captions are compared with; by default the bare `name`")


class CaptionFile(_Vocabulary):
    """A vocabulary. Adjective and preposition may always be empty, so that the lists hold words only."""

    template: Noun = "a photo of a {adjective} {noun} {preposition}"
    adjectives: list[Phrase] = Field([], description="for every class")
    prepositions: list[Phrase] = Field([], description="for every class")
    classes: dict[str, ClassEntry] = Field({}, description="class name -> its entry, which may be left empty")
    default: ClassEntry | None = Field(None, description="entry of the classes that are not listed")

    @field_validator("classes", mode="before")
    @classmethod
    def _names_are_text(cls, classes):
        if not isinstance(classes, dict):
            return classes
        for name in classes:
            if isinstance(name, bool) or name is None:
                raise ValueError(f"YAML reads a class name as {name}; put it in quotes")
        return {str(name): {} if entry is None else entry for name, entry in classes.items()}

    @field_validator("default", mode="before")
    @classmethod
    def _default_may_be_empty(cls, entry):
        return {} if entry is None else entry

    @model_validator(mode="after")
    def _template_has_slots(self):
        try:
            fields = [field for field in string.Formatter().parse(self.template) if field[1] is not None]
        except ValueError as error:
            raise ValueError(f"template {self.template!r} is not one: {error}") from None
        slots = [slot for _, slot, _, _ in fields]
        if any(spec or conversion or slot not in ("noun", *MODIFIERS) for _, slot, spec, conversion in fields):
            raise ValueError(f"template {self.template!r} may hold {{adjective}}, {{noun}} and {{preposition}} only")
        if "noun" not in slots or len(set(slots)) < len(slots):
            raise ValueError(f"template {self.template!r} must hold {{noun}}, and no slot twice")
        for slot in MODIFIERS:
            if slot not in slots and any(getattr(part, f"{slot}s") for part in (self, *self.entries.values())):
                raise ValueError(f"there are {slot}s, but template {self.template!r} has no {{{slot}}}")
        return self

    @model_validator(mode="after")
    def _sizes_are_bounded(self):
        if not self.entries:
            raise ValueError("the grammar is empty; list the classes under classes, or give a default entry")
        for name, entry in self.entries.items():
            counts = [len(entry.nouns or [name]), *(len(self.words(entry, slot)) for slot in MODIFIERS)]
            total = counts[0] * counts[1] * counts[2]
            if total > MAX_CANDIDATES:
                raise ValueError(
                    f"{name} has {total:,} candidate captions ({counts[0]:,} nouns x {counts[1]:,} adjectives x "
                    f"{counts[2]:,} prepositions, none included), more than {MAX_CANDIDATES:,}; give it fewer words"
                )
        return self

    @property
    def entries(self):
        """Class name -> `ClassEntry`, with that of the classes that are not listed as "the default entry"."""
        return self.classes if self.default is None else {**self.classes, "the default entry": self.default}

    def words(self, entry, slot):
        """What may fill the adjective or preposition slot of an entry: nothing, the common words, its own."""
        return list(dict.fromkeys(["", *getattr(self, f"{slot}s"), *getattr(entry, f"{slot}s")]))


def get_caption_set(name_or_path: str | Path) -> "CaptionSet":
    """The vocabulary of this name (one of `CAPTION_SETS`, in any case) or in this YAML file: a `CaptionSet`.

    Raises:
        UserError: a name or file that is not there, or a file that is not a vocabulary: unknown keys, no classes, or
            more than `MAX_CANDIDATES` candidates for a class (counted, never built).

    >>> get_caption_set("CIFARSIMPLE").for_class("dog").captions("prep")[:2]
    ['a photo of a dog', 'a photo of a dog outside']
    """
    name = str(name_or_path)
    if name.upper() in CAPTION_SETS:
        return CaptionSet(f"caption set {name.upper()}", _load(_FOLDER / f"{name.lower()}.yaml"), shipped=True)
    if not Path(name).is_file():
        hint = nearest(name.upper(), CAPTION_SETS, f"give a YAML file or one of {', '.join(CAPTION_SETS)}")
        raise UserError(f"there is no caption set or file {name}; {hint}")
    return CaptionSet(f"caption file {name}", _load(name), shipped=False)


def read_vocabulary(captions: "Sequence[str] | str | Path | CaptionSet") -> "list[str] | CaptionSet":
    """Texts to compare images with: a list of texts, or a `CaptionSet`.

    Args:
        captions: either of them, a text file (.txt) with one a line, or what `get_caption_set` takes.

    Raises:
        UserError: no texts, or a file or set that does not exist or is another.
    """
    if isinstance(captions, CaptionSet):
        return captions
    if isinstance(captions, str | Path):
        path = Path(captions)
        if path.suffix != ".txt":
            return get_caption_set(captions)
        if not path.is_file():
            raise UserError(f"the captions {path} do not exist; check the path")
        try:
            captions = path.read_text(encoding="utf-8-sig").splitlines()
        except UnicodeDecodeError:
            raise UserError(f"the captions {path} are not a text in UTF-8; save them as one") from None
    texts = list(dict.fromkeys(text for text in (str(text).strip() for text in captions) if text))
    if not texts:
        raise UserError("the captions hold no text; give one a line")
    return texts


def _load(path):
    try:
        return CaptionFile.model_validate(read_yaml(path, "caption file", "see src/captions/configs/ for examples"))
    except ValidationError as error:
        raise UserError(f"caption file {path}{_complaint(error.errors()[0])}") from None


def _complaint(error):
    """The rest of the sentence that begins with the file's name."""
    parts = [str(part) for part in error["loc"]]
    if error["type"] == "extra_forbidden":
        known = CaptionFile.model_fields if len(parts) == 1 else ClassEntry.model_fields
        place = f" in {'.'.join(parts[:-1])}" if parts[1:] else ""
        hint = nearest(parts[-1], known, f"the keys are {', '.join(known)}")
        return f" has an unknown key {parts[-1]}{place}; {hint}"
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "value_error":
        return f": {message}"
    hint = "; put words that YAML takes for something else in quotes" if error["type"] == "string_type" else ""
    return f": {'.'.join(parts)} is {reprlib.repr(error['input'])}, but {message[0].lower()}{message[1:]}{hint}"


# ---------------------------------------------------------------------------------------------------------------------
# Captions
# ---------------------------------------------------------------------------------------------------------------------


class CaptionSet:
    """The vocabulary of a data set's classes.

    Args:
        source: how errors name it.
        grammar: `CaptionFile`.
        shipped: a vocabulary of this project, which may know more classes than a data set has (ImageNet's, for a subset
            of it); in a user's own file these are taken for mistakes.
    """

    def __init__(self, source, grammar, shipped):
        self.source, self.grammar, self.shipped = source, grammar, shipped
        self._listed = {plain_name(name): name for name in reversed(grammar.classes)}

    def for_class(self, class_name: str) -> "CaptionGenerator":
        """The `CaptionGenerator` of a class.

        Names match in any case, with `_` for spaces.

        Raises:
            UserError: a class without an entry, or one of which there are fewer than two captions, as where all are
                excluded.
        """
        listed = self._listed_name(class_name)
        entry = self.grammar.default if listed is None else self.grammar.classes[listed]
        if entry is None:
            raise UserError(self._no_entry(class_name))
        generator = CaptionGenerator(
            name=entry.name or class_name.replace("_", " "),
            nouns=entry.nouns,
            adjectives=self.grammar.words(entry, "adjective"),
            prepositions=self.grammar.words(entry, "preposition"),
            excludes=entry.excludes,
            reference=entry.reference,
            template=self.grammar.template,
        )
        captions = set()
        for caption in generator.candidates("all"):
            captions.add(caption)
            if len(captions) > 1:
                return generator
        count = "one caption" if captions else "no caption"
        raise UserError(
            f"{self.source} leaves {count} of the class {class_name}, and at least two can be compared; give it "
            "adjectives, prepositions or nouns, or mend its excludes"
        )

    def for_classes(self, class_names: Sequence[str]) -> list["CaptionGenerator"]:
        """The `CaptionGenerator` of each of a data set's classes; checks that file and data set fit together.

        Raises:
            UserError: a class without an entry or, in a user's own file, an entry that is no class.
        """
        if not self.shipped:
            strangers = set(self.grammar.classes) - {self._listed_name(name) for name in class_names}
            for name in (name for name in self.grammar.classes if name in strangers):
                hint = nearest(name, class_names, f"the classes are {some(class_names)}")
                raise UserError(f"{self.source} describes {name}, which is no class of the data set; {hint}")
        return [self.for_class(name) for name in class_names]

    def _listed_name(self, class_name):
        return class_name if class_name in self.grammar.classes else self._listed.get(plain_name(class_name))

    def _no_entry(self, class_name):
        remedy = "write a file for your classes" if self.shipped else "add it under classes, or add a default entry"
        return f"{self.source} has no entry for the class {class_name}, only {some(self.grammar.classes)}; {remedy}"


class CaptionGenerator:
    """The candidate captions of one class, and the reference they are compared with.

    Args:
        name: what the class is called.
        nouns: what may stand for it, by default `name`.
        adjectives, prepositions: what may fill these slots; "" leaves one empty.
        excludes: words and phrases no caption may hold.
        reference: by default the template with `name` alone.
        template: holds `{noun}` and maybe `{adjective}` and `{preposition}`; an article before a slot follows what
            fills it.

    >>> cat = CaptionGenerator("cat", nouns=["cat", "ocelot"], adjectives=["", "white", "orange"])
    >>> cat.captions("noun"), cat.captions("adj")[1:]
    (['a photo of a cat', 'a photo of an ocelot'], ['a photo of a white cat', 'a photo of an orange cat'])
    """

    def __init__(
        self,
        name: str,
        nouns: Iterable[str] | None = None,
        adjectives: Iterable[str] = ("",),
        prepositions: Iterable[str] = ("",),
        excludes: Sequence[str] = (),
        reference: str | None = None,
        template: str = CaptionFile.model_fields["template"].default,
    ) -> None:
        self.name, self.nouns = name, list(nouns or [name])
        self.adjectives, self.prepositions = list(adjectives), list(prepositions)
        # A mark shows the article that depends on what follows it.
        self._template = re.sub(r"\b([Aa])n? (?={)", "\0\\1 ", template)
        phrases = "|".join(map(re.escape, excludes))
        self._excluded = re.compile(rf"(?<!\w)(?:{phrases})(?!\w)", re.IGNORECASE) if excludes else None
        self.reference = reference or self._fill(noun=name)

    def captions(self, kind: str = "all") -> list[str]:
        """The captions of a kind, a list without repeats that begins with the plainest.

        "all": every noun with every adjective and preposition. "noun": the nouns alone. "adj", "prep": the class's name
        with every adjective, or with every preposition.
        """
        return list(dict.fromkeys(self.candidates(kind)))

    def candidates(self, kind: str = "all") -> Iterator[str]:
        """Iterate over the captions of a kind; different words may make the same one."""
        if kind not in KINDS:
            raise UserError(f"unknown kind of captions {kind!r}; choose one of {', '.join(KINDS)}")
        nouns = self.nouns if kind in ("all", "noun") else [self.name]
        adjectives = self.adjectives if kind in ("all", "adj") else [""]
        prepositions = self.prepositions if kind in ("all", "prep") else [""]
        for noun, adjective, preposition in itertools.product(nouns, adjectives, prepositions):
            caption = self._fill(noun, adjective, preposition)
            if not (self._excluded and self._excluded.search(caption)):
                yield caption

    def _fill(self, noun, adjective="", preposition=""):
        caption = self._template.format(noun=noun, adjective=adjective, preposition=preposition)
        caption = " ".join(caption.split()).rstrip(" ,;")  # what an empty slot leaves behind
        return re.sub("\0([Aa]) (.*)", lambda match: match[1] + with_article(match[2])[1:], caption)
