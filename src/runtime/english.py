"""Words for messages and captions: lists cut short, articles, plain names."""

import difflib
import re
import string
import unicodedata

_AN = re.compile(
    r"[aeiou]|h(?:our(?!i)|onest|ono|eir)|(?:8\d*|11|18)(?!\d)"
    r"|[fhlmnrsx](?![^\W_])"  # a letter alone, spelt out: an x-ray, an F-16
)
_A = re.compile(r"eu|ew[er]|u(?!\w)|u(?:bi|fo|k|r[aeiou]|s[aeiu]|t[aeio]|ni(?![dmn]))|on(?:e(?!\w)|ce)")  # you-, won-
_INITIALS = re.compile(r"[A-Z]{2,4}(?![^\W_])")  # spelt out: an SUV, a UFO


def with_article(phrase):
    """`phrase` with the indefinite article that English gives it. By the first word's sound, as far as spelling tells.

    >>> with_article("orange cat"), with_article("hourglass"), with_article("unicorn"), with_article("SUV")
    ('an orange cat', 'an hourglass', 'a unicorn', 'an SUV')
    """
    # Accents, quotation marks and brackets do not change the sound.
    sound = unicodedata.normalize("NFKD", phrase).lstrip(string.punctuation + string.whitespace)
    if _INITIALS.match(sound):
        return f"{'an' if sound[0] in 'AEFHILMNORSX' else 'a'} {phrase}"
    sound = sound.lower()
    return f"{'an' if _AN.match(sound) and not _A.match(sound) else 'a'} {phrase}"


# Letters that print as Latin ones do, of the Cyrillic and the Greek alphabet.
_PRINTED = str.maketrans(
    "аеорсухѕіјԁһӏѵԛԝвкмнтАВЕКМНОРСТХУЅІЈԚԜανοιΑΒΕΖΗΙΚΜΝΟΡΤΥΧ",
    "aeopcyxsijdhlvqwbkmhtABEKMHOPCTXYSIJQWavoiABEZHIKMNOPTYX",
)


def plain_name(class_name):
    """A class's name as names are compared: accents composed, without case, underscores and double spaces."""
    return " ".join(unicodedata.normalize("NFC", class_name).replace("_", " ").casefold().split())


def printed_name(name):
    """A name as it prints: a Cyrillic or Greek letter as the Latin one of its shape, without what is not seen."""
    seen = (c for c in unicodedata.normalize("NFKC", name) if unicodedata.category(c) != "Cf")
    return plain_name("".join(seen).translate(_PRINTED))


def difference(name, other):
    """What two names differ in that print alike: the characters by number and name, a part of a sentence; or ""."""
    strange = [c for c in dict.fromkeys(name + other) if not c.isascii() and (c in name) != (c in other)]
    return ", ".join(f"U+{ord(c):04X} {unicodedata.name(c, 'without a name')}" for c in strange[:3])


def some(names, most=8):
    """The first of some names, for an error: "a, b and 5 more"."""
    names = [str(name)[:80] for name in names]
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if names[most:] else "")


def nearest(name, known, otherwise="", most=1):
    """A hint at the known names most like one that is unknown, for an error: "did you mean X?", or `otherwise`.

    Where the names print alike, it says what they differ in.
    """
    known = list(known)
    alike = [other for other in known if printed_name(other) == printed_name(name)]
    near = alike[:most] or difflib.get_close_matches(name, known, n=most)
    differ = difference(name, near[0]) if alike else ""
    return f"did you mean {' or '.join(near)}?{differ and f' They differ in {differ}'}" if near else otherwise
