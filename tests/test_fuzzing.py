"""Whatever lies in a file, its parser gives a value or a `UserError`, and touches no other file.

Few cases and always the same; a campaign tries others and many more (both profiles are in tests/conftest.py):

    python -m pytest tests/test_fuzzing.py --hypothesis-profile=campaign --hypothesis-show-statistics
"""

import csv
import io
import os
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from failure_directions.captions.vocabulary import get_caption_set
from failure_directions.config_parsing import (
    DatasetConfig,
    SVMConfig,
    _known_keys,
    load_dataset_config,
    load_svm_config,
)
from failure_directions.data.image_sources import GENERATED, manifest_sources
from failure_directions.data.index_files import KEYS, load_index_file
from failure_directions.runtime.errors import UserError
from hypothesis import example, given
from hypothesis import strategies as st

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def parsed(tmp_path_factory):
    """A function that writes bytes to a file and gives what a parser makes of it, or None where it is refused."""
    folder = tmp_path_factory.mktemp("fuzzed")
    path = folder / "file"

    def parsed(content, parse, *arguments, **options):
        path.write_bytes(content)
        try:
            return parse(path, *arguments, **options)
        except UserError as error:
            refusal = str(error)
        finally:
            assert os.listdir(folder) == ["file"]
            assert path.read_bytes() == content
        assert 0 < len(refusal) < 2000
        return None

    return parsed


# ---- what files may hold


def mutated(valid):
    """Bytes that were a valid file until some parts were cut out, doubled or overwritten."""
    places = st.integers(0, len(valid))
    cuts = st.lists(st.tuples(places, st.integers(0, 40), st.binary(max_size=8) | st.none()), min_size=1, max_size=5)

    def apply(cuts):
        content = valid
        for start, length, new in cuts:
            part = content[start : start + length]
            content = content[:start] + (2 * part if new is None else new) + content[start + length :]
        return content

    return cuts.map(apply)


WORDS = st.sampled_from(
    ["train", "test.beton", "0", "-1", "1e-3", "on", "", "~", "a\nb", "*a", "{noun}", "<<", "\ud800"]
)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | WORDS
    | st.dates()
    | st.integers(2**60, 2**80)
    | st.binary(max_size=5)
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8) | WORDS | SCALARS, inner, max_size=4)
    ),
    max_leaves=12,
)


def documents(*known):
    """YAML texts: any value, or a mapping of keys of which some are known."""
    mappings = st.dictionaries(st.sampled_from(known) | st.text(max_size=8), VALUES, max_size=8)
    return st.builds(as_yaml, VALUES | mappings, st.booleans())


def as_yaml(value, flow):
    return yaml.dump(value, default_flow_style=flow, allow_unicode=True).encode("utf-8", "surrogatepass")


def sections(keys):
    """{"a": ..., "a.b": ...} as the dict of dicts that a config is."""
    nested = {}
    for key, value in keys.items():
        *above, last = key.split(".")
        inner = nested
        for section in above:
            inner = inner.setdefault(section, {}) if isinstance(inner.get(section, {}), dict) else {}
        inner[last] = value
    return nested


SHIPPED = {
    "dataset": (ROOT / "dataset_configs" / "celeba_age.yaml").read_bytes(),
    "svm": (ROOT / "svm_configs" / "normalized_svm_base_config.yaml").read_bytes(),
    "captions": (ROOT / "src" / "captions" / "configs" / "cifarsimple.yaml").read_bytes(),
    "manifest": b"path,label,spurious,split\na/1.png,cat,0,train\nb/2.png,dog,1,val\n\xc3\xa9.png,cat,0,test\n",
}
LAUGHS = "a0: &a0 [lol]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12))


# ---- configs


@given(st.binary(max_size=200) | mutated(SHIPPED["dataset"]) | documents(*DatasetConfig.model_fields))
@example(LAUGHS.encode())
@example(b"imgsz: " + b"9" * 5000)
@example(b"imgsz: 1" + b":59" * 100_000)
@example(b"a: !!timestamp x")
@example(b"a: !!int ''")
@example(b"a: !!bool x")
@example(b"a: &a [*a]")
@example(b"[" * 5000)
def test_any_dataset_config_is_read_or_refused(parsed, content):
    config = parsed(content, load_dataset_config)
    if config is not None:
        assert config.num_classes == len(config.names)


@given(
    st.dictionaries(st.sampled_from(sorted(_known_keys(DatasetConfig))), VALUES, max_size=6),
    st.lists(st.sampled_from(sorted(_known_keys(DatasetConfig))), max_size=2),
)
def test_any_value_of_any_option_is_read_or_refused(parsed, changes, left_out):
    valid = yaml.safe_load(SHIPPED["dataset"])
    content = {key: value for key, value in valid.items() if key not in left_out} | sections(changes)
    parsed(as_yaml(content, False), load_dataset_config)


@given(
    st.lists(
        st.text(max_size=30) | st.tuples(st.sampled_from(sorted(_known_keys(DatasetConfig))), st.text()).map("=".join)
    )
)
def test_any_override_is_taken_or_refused(parsed, overrides):
    parsed(SHIPPED["dataset"], load_dataset_config, overrides)


@given(st.binary(max_size=200) | mutated(SHIPPED["svm"]) | documents(*SVMConfig.model_fields))
def test_any_svm_config_is_read_or_refused(parsed, content):
    parsed(content, load_svm_config)


# ---- captions


@given(
    st.binary(max_size=200)
    | mutated(SHIPPED["captions"])
    | documents("template", "adjectives", "prepositions", "classes", "default"),
    st.lists(st.text(min_size=1, max_size=8), max_size=3),
)
@example(b"classes: {cat: }\nadjectives: [" + b"a, " * 2000 + b"]\nprepositions: [" + b"b, " * 2000 + b"]", ["cat"])
def test_any_caption_file_is_read_or_refused(parsed, content, class_names):
    captions = parsed(content, get_caption_set)
    if captions is None:
        return
    for name in [*class_names, *captions.grammar.classes]:
        try:
            generator = captions.for_class(name)
        except UserError:
            continue
        assert len(generator.captions("all")) > 1


# ---- manifests


CELLS = st.text(max_size=12) | st.sampled_from(
    [
        "0",
        "1",
        "-1",
        "007",
        "1.5",
        "9" * 5000,
        "cat",
        "cat|dog",
        "|",
        "train",
        "val",
        "",
        "../x.png",
        "/etc/passwd",
        "a/../../x",
        "\x00",
        "x\n",
        "\ud800",
        "a,b",
        '"',
    ]
)
HEADERS = st.permutations(["path", "label", "spurious", "split"]) | st.lists(
    st.sampled_from(["path", "label", "spurious", "split", *GENERATED, "x", ""]), max_size=6
)


@st.composite
def tables(draw):
    header = draw(HEADERS)
    width = st.just(len(header)) | st.integers(0, 6)
    rows = [draw(st.lists(CELLS, min_size=(n := draw(width)), max_size=n)) for _ in range(draw(st.integers(0, 5)))]
    stream = io.StringIO()
    csv.writer(stream).writerows([header, *rows])
    return stream.getvalue().encode("utf-8", "surrogatepass")


@given(
    st.binary(max_size=200) | mutated(SHIPPED["manifest"]) | tables(),
    st.none() | st.lists(st.sampled_from(["cat", "dog", "0", "1", ""]), max_size=3),
    st.booleans(),
)
def test_any_manifest_is_read_or_refused_and_stays_in_its_folder(parsed, content, class_names, bce):
    sources = parsed(content, manifest_sources, "/images", class_names, bce)
    for source in (sources or {}).values():
        assert len(source.paths) == len(source.labels) > 0
        for path in source.paths:
            assert Path(os.path.normpath(path)).is_relative_to("/images")


# ---- index files


def as_torch_file(content, old_format):
    stream = io.BytesIO()
    torch.save(content, stream, _use_new_zipfile_serialization=not old_format)
    return stream.getvalue()


TENSORS = st.builds(
    lambda shape, dtype: torch.zeros(shape, dtype=dtype),
    st.lists(st.integers(0, 3), max_size=3),
    st.sampled_from(
        [torch.int64, torch.int8, torch.bool, torch.float32, torch.bfloat16, torch.complex64, torch.uint16]
    ),
)
CONTENTS = st.recursive(
    st.none() | st.integers() | st.floats() | st.text(max_size=9) | TENSORS | st.binary(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from([*KEYS, "unlabelled_indices", "train_labels_digest"]) | st.text(max_size=3), inner
        )
    ),
    max_leaves=6,
)
VALID_INDEX = {"train_indices": torch.arange(30), "val_indices": torch.arange(30, 40), "train_labels_digest": "abc"}


@given(
    st.binary(max_size=200).map(lambda content: b"\x80\x02" + content)
    | mutated(as_torch_file(VALID_INDEX, False))
    | mutated(as_torch_file(VALID_INDEX, True))
    | st.builds(as_torch_file, CONTENTS, st.booleans())
)
@example(as_torch_file({"train_indices": torch.zeros(1, dtype=torch.int64).expand(10**12)}, False))
@example(as_torch_file({"train_indices": np.arange(3)}, False))
def test_any_index_file_is_read_or_refused(parsed, content):
    splits = parsed(content, load_index_file)
    for key, indices in (splits or {}).items():
        assert (key in KEYS and indices.dtype == np.int64 and indices.ndim == 1) or isinstance(indices, str)
