"""YAML as the project reads it: safe, bounded, with `1e-3` a number and no key twice."""

import re

import yaml

from .errors import UserError
from .files import existing_file

MOST_BYTES, MOST_WORDS, MOST_DIGITS = 4_000_000, 1_000_000, 100
"""Of a YAML file: its size, the words in it with every alias written out, and the length of a number."""


class _Loader(yaml.SafeLoader):
    """Safe YAML that reads `1e-3` as a number (YAML 1.1 takes it for text) and refuses a key given twice.

    And what would fill the memory or take hours: aliases of aliases of aliases, numbers of a million digits.
    """

    def get_single_node(self):
        node = super().get_single_node()
        if node is not None and _words(node, {}) > MOST_WORDS:
            raise yaml.composer.ComposerError(
                None, None, f"its aliases stand for more than {MOST_WORDS:,} words", node.start_mark
            )
        return node

    def construct_mapping(self, node, deep=False):
        seen = set()
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(None, None, "a key is not a word", key_node.start_mark)
            if key_node.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key_node.value} is given twice", key_node.start_mark
                )
            seen.add(key_node.value)
        return super().construct_mapping(node, deep)


def _words(node, known):
    """How many words a node has with every alias written out; `known` keeps the numbers of nodes that were counted."""
    if id(node) not in known:
        known[id(node)] = 1  # for a node that holds itself
        if isinstance(node, yaml.MappingNode):
            known[id(node)] += sum(_words(key, known) + _words(value, known) for key, value in node.value)
        elif isinstance(node, yaml.SequenceNode):
            known[id(node)] += sum(_words(value, known) for value in node.value)
    return known[id(node)]


def _short_number(construct):
    def checked(loader, node):
        if len(str(node.value)) > MOST_DIGITS:
            raise yaml.constructor.ConstructorError(
                None, None, f"a number is longer than {MOST_DIGITS} digits", node.start_mark
            )
        return construct(loader, node)

    return checked


_Loader.add_constructor("tag:yaml.org,2002:int", _short_number(yaml.SafeLoader.construct_yaml_int))


_Loader.add_constructor("tag:yaml.org,2002:float", _short_number(yaml.SafeLoader.construct_yaml_float))


class _Dumper(yaml.SafeDumper):
    """Safe YAML that quotes what `_Loader` would not read as text."""

    def ignore_aliases(self, data):
        return True


for _dialect in (_Loader, _Dumper):
    _dialect.add_implicit_resolver(
        "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
    )


def dump_yaml(content, **layout):
    """Lists, dicts, numbers and text as YAML that `parse_yaml` reads as the same; `layout` as PyYAML's `dump` has."""
    return yaml.dump(content, Dumper=_Dumper, sort_keys=False, allow_unicode=True, **layout)


def parse_yaml(text):
    """What a YAML text says.

    Raises:
        Exception: PyYAML's, of many kinds where a tag does not fit its value.
    """
    return yaml.load(text, Loader=_Loader)


def read_yaml(path, what, hint, kind=dict):
    """A YAML file's mapping, or its list where `kind` is list.

    `what` and `hint` word the `UserError` ("config", where to see examples).
    """
    path = existing_file(path, what)
    if path.stat().st_size > MOST_BYTES:
        raise UserError(f"{what} {path} is larger than {MOST_BYTES / 1e6:.0f} MB, so it is no {what}; check the path")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise UserError(f"{what} {path} is not a text file; give a YAML file") from None
    try:
        options = parse_yaml(text)
    except Exception as error:  # see parse_yaml
        mark = getattr(error, "problem_mark", None)
        where = f" line {mark.line + 1}:" if mark else ""
        problem = "a tag does not fit its value"
        if isinstance(error, RecursionError):
            problem = "it is nested too deep"
        elif isinstance(error, yaml.YAMLError | ValueError):
            problem = str(getattr(error, "problem", None) or error).partition("\n")[0]
        raise UserError(f"{what} {path} is not valid YAML;{where} {problem[:200]}") from None
    if not isinstance(options, kind):
        expected = "a mapping of keys to values" if kind is dict else "a list"
        state = "is empty" if options is None else f"is not {expected}"
        raise UserError(f"{what} {path} {state}; {hint}")
    return options
