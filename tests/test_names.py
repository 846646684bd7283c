"""Names as people type them: that print alike, in another Unicode form, in messages."""

import numpy as np
import pytest
from failure_directions.captions.vocabulary import get_caption_set
from failure_directions.commands import find
from failure_directions.data.names import alike
from failure_directions.directions.galleries import SVMProcessor
from failure_directions.runtime.english import nearest, plain_name

CYRILLIC = "c\u0430t"  # its second letter
ACCENTS = "caf\u00e9", "cafe\u0301"  # composed, and apart


@pytest.mark.parametrize(
    ("typed", "known", "told"),
    [
        (CYRILLIC, "cat", "U+0430 CYRILLIC SMALL LETTER A"),
        ("cat", CYRILLIC, "U+0430 CYRILLIC SMALL LETTER A"),
        ("\u0441\u0430ts", "cats", "U+0441 CYRILLIC SMALL LETTER ES, U+0430 CYRILLIC SMALL LETTER A"),
        ("cat\u200b", "cat", "U+200B ZERO WIDTH SPACE"),
        ("house\u00a0cat", "house cat", "U+00A0 NO-BREAK SPACE"),
        ("\uff43at", "cat", "U+FF43 FULLWIDTH LATIN SMALL LETTER C"),
        (*ACCENTS, "U+00E9 LATIN SMALL LETTER E WITH ACUTE"),
    ],
)
def test_an_unknown_name_that_prints_like_a_known_one_is_told_by_its_characters(typed, known, told):
    hint = nearest(typed, ["dog", known])
    assert hint.startswith(f"did you mean {known}? They differ in {told}")


def test_other_names_are_told_as_they_are():
    assert nearest("dgo", ["dog", "cat"]) == "did you mean dog?"
    assert nearest("Cat", ["dog", "cat"]) == "did you mean cat?"
    assert nearest("Zurich", ["Z\u00fcrich"]) == "did you mean Z\u00fcrich?"
    assert nearest("x", ["dog"], "take a dog") == "take a dog"


def test_two_classes_that_print_alike_are_told():
    assert alike(["cat", CYRILLIC, "dog"], "the labels") == [
        f"the labels cat and {CYRILLIC} look alike: they differ in U+0430 CYRILLIC SMALL LETTER A"
    ]
    assert alike(["Cat", "cat", "dog"], "the labels") == [
        "the labels Cat and cat differ only by case, underscores or blanks"
    ]
    assert alike(["cat", "dog"], "the labels") == []


def test_a_prediction_that_prints_like_a_class_is_told(tmp_path, capsys):
    table = tmp_path / "table.csv"
    rows = [f"{i}.png,{('cat', 'dog')[i % 2]},{CYRILLIC if i == 5 else 'cat'},.5,.5\n" for i in range(20)]
    table.write_text("path,label,pred,prob_cat,prob_dog\n" + "".join(rows), encoding="utf-8")
    np.save(tmp_path / "e.npy", np.zeros((20, 2)))
    with pytest.raises(SystemExit) as stop:
        find.main(["--predictions", str(table), "--embeddings", str(tmp_path / "e.npy")])
    assert stop.value.code == 2
    assert "line 7: pred is" in (said := capsys.readouterr().err)
    assert "did you mean cat? They differ in U+0430 CYRILLIC SMALL LETTER A" in said


def test_a_captions_file_may_have_its_accents_apart(tmp_path):
    composed, apart = ACCENTS
    assert plain_name(apart) == composed
    file = tmp_path / "captions.yaml"
    file.write_text(f"adjectives: [red, blue]\nclasses: {{{apart}: {{}}}}\n", "utf-8")
    (generator,) = get_caption_set(file).for_classes([composed])
    assert f"a photo of a red {composed}" in generator.captions()


def test_a_class_may_be_named_with_its_accents_apart():
    proc = object.__new__(SVMProcessor)
    proc.path, proc.class_names = "svm.pt", ["dog", ACCENTS[0]]
    assert proc.class_number(ACCENTS[1]) == 1
