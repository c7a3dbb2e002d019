"""Tests of passkey prompts: exact lengths, depth of the needle, tokens of running text, refusals."""

import numpy as np
import pytest
from characters import character_tokenizer
from hypothesis import given
from hypothesis import strategies as st
from tokenizer_kinds import KINDS

from longrope.data.prompts import (
    ANSWER,
    FILLER,
    INTRODUCTION,
    NEEDLE,
    QUESTION,
    Prompt,
    build_prompt,
    classic_filler,
    draw_key,
)
from longrope.errors import UserError

CHARACTERS = character_tokenizer()
FIXED = len(INTRODUCTION + NEEDLE + QUESTION + ANSWER) - 3 * len("{key}") + 3 * 5
"""Characters around the filler: the key stands three times."""


def decode(tokens: np.ndarray) -> str:
    """Return the characters of tokens."""
    return CHARACTERS.decode(tokens.tolist())


def built(length: int, depth: float, key: int = 12345, **options: bool) -> Prompt:
    """Return a prompt of characters in a filler of tildes."""
    return build_prompt(CHARACTERS, "~" * length, length=length, depth=depth, key=key, **options)


MADE = {name: make() for name, make in KINDS.items()}


def test_a_prompt_reads_as_published():
    text = decode(built(FIXED + 12, 0.5).tokens)
    assert text == (
        "There is an important info hidden inside a lot of irrelevant text. Find it and memorize it."
        " I will quiz you about the important information there.\n"
        "~~~~~\nThe pass key is 12345. Remember it. 12345 is the pass key.\n"
        "~~~~~\nWhat is the pass key? The pass key is 12345"
    )


def test_at_depth_zero_the_needle_stands_before_all_filler_and_at_one_after_it():
    shallow, deep = (decode(built(FIXED + 7, depth).tokens) for depth in (0.0, 1.0))
    needle = NEEDLE.format(key=12345)
    assert INTRODUCTION + needle + "~" * 6 + "\n" + QUESTION in shallow
    assert INTRODUCTION + "~" * 6 + "\n" + needle + QUESTION in deep


@given(
    room=st.integers(0, 300),
    depth=st.floats(0, 1),
    key=st.integers(10_000, 99_999),
    introduction=st.booleans(),
)
def test_every_prompt_has_exactly_its_length_and_all_its_parts(room, depth, key, introduction):
    length = FIXED + room
    prompt = built(length, depth, key, introduction=introduction)
    assert prompt.tokens.shape == (length,)
    assert prompt.tokens.dtype == np.int64
    text = decode(prompt.tokens)
    needle = NEEDLE.format(key=key)
    before, after = text.removeprefix(INTRODUCTION if introduction else "").split(needle)
    assert set(before + after.removesuffix(QUESTION + ANSWER.format(key=key))) <= {"~", "\n"}
    assert after.endswith(QUESTION + ANSWER.format(key=key))
    assert decode(prompt.tokens[-prompt.num_answer_tokens :]) == f" {key}"
    # a line break after either filler, and what was left out
    filler = text.count("~")
    assert abs(before.count("~") - depth * filler) <= 2


@given(st.integers(0, 100), st.floats(0, 1), st.floats(0, 1))
def test_a_deeper_needle_never_stands_earlier(room, first, second):
    low, high = sorted((first, second))
    places = [decode(built(FIXED + room, d).tokens).index("The pass key") for d in (low, high)]
    assert places[0] <= places[1] + 2


@pytest.mark.parametrize("kind", KINDS)
@given(length=st.integers(260, 900), depth=st.floats(0, 1), key=st.integers(10_000, 99_999))
def test_a_prompt_of_any_tokenizer_has_the_tokens_of_its_text(kind, length, depth, key):
    tokenizer = MADE[kind]
    filler = classic_filler(tokenizer, length)
    prompt = build_prompt(tokenizer, filler, length=length, depth=depth, key=key, begin=[1])
    assert len(prompt.tokens) == length and prompt.tokens[0] == 1
    ids = prompt.tokens[1:].tolist()
    text = tokenizer.decode(ids, skip_special_tokens=False)
    assert text.startswith(INTRODUCTION) and text.endswith(QUESTION + ANSWER.format(key=key))
    assert text.count(NEEDLE.format(key=key)) == 1
    # except for a few that may be left out in the middle of the filler, where new pairs become neighbours
    whole = tokenizer.encode(text, add_special_tokens=False).ids
    alike = sum(a == b for a, b in zip(ids, whole, strict=False))
    backwards = sum(a == b for a, b in zip(ids[::-1], whole[::-1], strict=False))
    assert ids == whole or alike + backwards >= length - 8


@pytest.mark.parametrize("kind", KINDS)
def test_the_answer_has_the_tokens_that_follow_the_question_in_running_text(kind):
    tokenizer = MADE[kind]
    prompt = build_prompt(
        tokenizer, classic_filler(tokenizer, 400), length=400, depth=0.5, key=48213
    )
    answer = prompt.tokens[-prompt.num_answer_tokens :].tolist()
    question, running = (
        tokenizer.encode(text, add_special_tokens=False).ids
        for text in (QUESTION, QUESTION + " 48213")
    )
    assert [*question, *answer] == running
    if kind == "metaspace_digits":
        answer_texts = [tokenizer.id_to_token(token) for token in answer]
        assert answer_texts == ["\u2581", *"48213"], (
            "one space, where the answer alone would have two"
        )


def test_the_shortest_prompt_has_no_filler_and_one_token_less_is_refused():
    assert "~" not in decode(built(FIXED, 0.5).tokens)
    with pytest.raises(UserError) as caught:
        built(FIXED - 1, 0.5)
    assert f"passkey length {FIXED - 1} is too short" in str(caught.value)
    assert f"already {FIXED} tokens" in str(caught.value)


def test_what_the_window_begins_with_takes_room_from_the_filler():
    plain, begun = (
        build_prompt(CHARACTERS, "~" * 400, length=400, depth=0.5, key=12345, begin=begin)
        for begin in ([], [7, 7])
    )
    assert begun.tokens[:2].tolist() == [7, 7] and len(begun.tokens) == len(plain.tokens)
    assert decode(begun.tokens).count("~") == decode(plain.tokens).count("~") - 2
    with pytest.raises(UserError, match=f"already {FIXED + 2} tokens"):
        build_prompt(CHARACTERS, "~", length=FIXED + 1, depth=0.5, key=12345, begin=[7, 7])


def test_filler_that_does_not_reach_is_refused_with_both_numbers():
    with pytest.raises(UserError, match="filler has 9 tokens, a prompt needs more than 10"):
        build_prompt(CHARACTERS, "~" * 9, length=FIXED + 10, depth=0, key=12345)


@pytest.mark.parametrize("depth", [-0.1, 1.1, float("nan")])
def test_a_depth_outside_the_text_is_refused(depth):
    with pytest.raises(ValueError, match=r"depth must lie in 0\.\.1"):
        built(FIXED + 10, depth)


def test_keys_have_five_digits_and_reach_both_ends():
    class Ends:
        def __init__(self, pick):
            self.integers = lambda low, high: pick(low, high - 1)

    assert draw_key(Ends(min)) == 10_000
    assert draw_key(Ends(max)) == 99_999
    keys = [draw_key(np.random.default_rng(seed)) for seed in range(200)]
    assert len(set(keys)) > 190
    assert keys == [draw_key(np.random.default_rng(seed)) for seed in range(200)]


@given(st.integers(0, 500))
def test_classic_filler_repeats_the_sentence_and_reaches(num_tokens):
    filler = classic_filler(CHARACTERS, num_tokens)
    assert len(filler) > num_tokens
    assert filler == FILLER * (len(filler) // len(FILLER))
