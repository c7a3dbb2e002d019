"""Sentences on wrong keys and unknown names, the same for every file that a model describes."""

from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from longrope.errors import UserError, explain, suggestion, validated


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid")
    size: int = Field(gt=0)


class Whole(BaseModel):
    model_config = ConfigDict(extra="forbid")
    part: Part
    name: str = ""

    @model_validator(mode="after")
    def _named(self) -> "Whole":
        if self.name == "no":
            raise ValueError("choose another name")
        return self


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        # the misspelling is named and not the key that is missing for it
        ({"prat": {"size": 1}}, "unknown key prat (did you mean part?)."),
        ({"part": {"size": 1, "siz": 2}}, "unknown key part.siz (did you mean size?)."),
        ({"part": {"size": 1}, "q": 0}, "unknown key q (see notes.md for the known keys)."),
        ({"part": {}}, "key part.size is missing; add it (see notes.md)."),
        ({"part": {"size": 0}}, "part.size should be greater than 0, got 0."),
        ({"part": {"size": "x"}}, "part.size should be a whole number, got 'x'."),
        ({"part": [1]}, "part should be a mapping of keys, got a list."),
        ({"part": {"size": 1}, "name": "no"}, "choose another name."),
        ([1, 2], "it should be a mapping of keys."),
        ("many words", "it should be a mapping of keys."),
    ],
)
def test_the_first_mistake_is_named_in_one_sentence(content: Any, sentence: str) -> None:
    with pytest.raises(UserError) as refused:
        validated(Whole, content, source="file.yaml", see="notes.md")
    assert str(refused.value) == f"file.yaml: {sentence}"


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({"part": {"size": 1}, "q": 0}, "file: unknown key q (remove it)."),
        ({}, "file: key part is missing; add it."),
    ],
)
def test_without_a_description_to_see_none_is_named(content: Any, sentence: str) -> None:
    with pytest.raises(UserError) as refused:
        validated(Whole, content, source="file")
    assert str(refused.value) == sentence


def test_text_that_is_no_json_is_not_repeated() -> None:
    with pytest.raises(ValidationError) as refused:
        Whole.model_validate_json("{ many words")
    sentence = explain(refused.value, Whole)
    assert sentence.startswith("it is not JSON: ") and "many words" not in sentence


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("h100", "did you mean h100-80?"),  # though a100 is more like it
        ("a10", "did you mean a100?"),
        ("h200-81", "did you mean h200-80?"),
        ("abacus", "there is none"),
    ],
)
def test_a_name_is_taken_for_what_it_begins_or_else_resembles(name: str, expected: str) -> None:
    known = ["h100-80", "a100", "h200-80"]
    assert suggestion(name, known, "there is none") == expected
