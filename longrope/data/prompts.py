"""Passkey prompts: a random 5-digit key hidden at a depth of irrelevant text, asked for at the end.

The wording is the one of Mohtashami and Jaggi 2023, Landmark Attention (arXiv:2305.16300), which the
published passkey results use; the filler is its classic sentence or text of a book.
A prompt is one text and is encoded whole, because the tokens of a part depend on what stands before it:
tokenizers of the Llama-2 kind put a space before every text, and an answer encoded alone has one too many.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer

from longrope.data.tokenizers import encode_plain
from longrope.errors import UserError

INTRODUCTION = (
    "There is an important info hidden inside a lot of irrelevant text. Find it and memorize it."
    " I will quiz you about the important information there.\n"
)
FILLER = (
    "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again.\n"
)
NEEDLE = "The pass key is {key}. Remember it. {key} is the pass key.\n"
QUESTION = "What is the pass key? The pass key is"
ANSWER = " {key}"
KEY_RANGE = (10_000, 100_000)

ATTEMPTS = 4
"""encodings of a prompt in search of filler that gives exactly the requested length"""


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """One passkey prompt with its answer appended."""

    tokens: NDArray[np.int64]
    """shape (length,): what the window begins with, prompt, answer."""
    num_answer_tokens: int
    """How many of the last tokens are the answer."""


def draw_key(generator: np.random.Generator) -> int:
    """Return a uniformly random 5-digit key."""
    return int(generator.integers(*KEY_RANGE))


@dataclass(frozen=True, kw_only=True)
class _Draft:
    """A prompt's text and its tokens, whose number is not yet exact."""

    text: str
    encoding: Encoding
    filler: tuple[tuple[int, int], tuple[int, int]]
    """characters of the filler before and after the needle"""

    def tokens_within(self, begin: int, end: int) -> list[int]:
        """Return the positions of the tokens that stand for these characters and for no others."""
        offsets = enumerate(self.encoding.offsets)
        return [at for at, (first, last) in offsets if begin <= first and last <= end]

    def without(self, surplus: int) -> list[int]:
        """Return the ids but for `surplus` ones out of the middle of the longer filler."""
        begin, end = max(self.filler, key=lambda span: span[1] - span[0])
        inside = self.tokens_within(begin, end)
        if surplus > len(inside):
            raise UserError(
                f"no filler makes a passkey prompt of {len(self.encoding.ids) - surplus} tokens; ask for a "
                "longer one."
            )
        first = inside[(len(inside) - surplus) // 2] if surplus else 0
        ids: list[int] = self.encoding.ids
        return ids[:first] + ids[first + surplus :]


def build_prompt(
    tokenizer: Tokenizer,
    filler: str,
    *,
    length: int,
    depth: float,
    key: int,
    begin: Sequence[int] = (),
    introduction: bool = True,
) -> Prompt:
    """Return a prompt of exactly `length` tokens, answer included.

    Its tokens are those of its text. Where no amount of filler gives the length, which is rare, the text has
    a few tokens more, and these are left out in the middle of the filler.

    Args:
        tokenizer: of the model, as `longrope.data.tokenizers.load_encoder` returns it.
        filler: the irrelevant text; its beginning is used.
        length: tokens of the whole prompt with `begin` and its answer.
        depth: where the needle stands, 0 = before all filler, 1 = after all of it.
        key: the number to recall.
        begin: token ids that the window begins with, such as BOS.
        introduction: whether the prompt opens by announcing the quiz.

    Raises:
        UserError: if the fixed parts alone are longer than `length`, or the filler is too short.
        ValueError: if the depth lies outside 0..1.
    """
    if not 0 <= depth <= 1:
        raise ValueError(f"depth must lie in 0..1, got {depth}")
    fixed = (
        INTRODUCTION if introduction else "",
        NEEDLE.format(key=key),
        QUESTION + ANSWER.format(key=key),
    )
    bare = _encode(tokenizer, "".join(fixed))
    room = length - len(begin) - len(bare.ids)
    if room < 0:
        raise UserError(
            f"passkey length {length} is too short: the prompt without filler is already "
            f"{length - room} tokens long; ask for a longer one."
        )
    draft = _fitted(
        tokenizer, fixed, filler, depth=depth, room=room, num_tokens=length - len(begin)
    )
    ids = draft.without(len(begin) + len(draft.encoding.ids) - length)
    answer = len(draft.text) - len(ANSWER.format(key=key))
    num_answer_tokens = sum(last > answer for _, last in draft.encoding.offsets)
    return Prompt(
        tokens=np.array([*begin, *ids], dtype=np.int64), num_answer_tokens=num_answer_tokens
    )


def fewest_tokens(tokenizer: Tokenizer, begin: Sequence[int] = ()) -> int:
    """Return the tokens of a prompt without filler, for the longest of some keys.

    Args:
        tokenizer: as for `build_prompt`.
        begin: token ids that the window begins with, such as BOS.
    """
    keys = range(*KEY_RANGE, (KEY_RANGE[1] - KEY_RANGE[0]) // 50)
    texts = [
        INTRODUCTION + NEEDLE.format(key=key) + QUESTION + ANSWER.format(key=key) for key in keys
    ]
    return len(begin) + max(len(encoding.ids) for encoding in encode_plain(tokenizer, texts))


def classic_filler(tokenizer: Tokenizer, num_tokens: int) -> str:
    """Return the classic sentence, repeated to more than `num_tokens` tokens."""
    return FILLER * (num_tokens // len(_encode(tokenizer, FILLER).ids) + 2)


def filler_of(tokenizer: Tokenizer, tokens: NDArray[np.int64]) -> str:
    """Return the text of tokens of documents, without special ones and without halves of characters."""
    text: str = tokenizer.decode(tokens.tolist(), skip_special_tokens=True)
    return text.strip("\ufffd")


def _encode(tokenizer: Tokenizer, text: str) -> Encoding:
    encoding: Encoding = encode_plain(tokenizer, [text])[0]
    return encoding


def _fitted(
    tokenizer: Tokenizer,
    fixed: tuple[str, str, str],
    filler: str,
    *,
    depth: float,
    room: int,
    num_tokens: int,
) -> _Draft:
    """Return the draft of `num_tokens` tokens, or one of a few more.

    Seams merge tokens or split them, so how much filler fits is tried, beginning with `room` tokens of it.
    """
    starts = [first for first, _ in _encode(tokenizer, filler).offsets]
    amount, longer = room, None
    for _ in range(ATTEMPTS):
        draft = _draft(tokenizer, fixed, _cut(filler, starts, amount, depth))
        surplus = len(draft.encoding.ids) - num_tokens
        if surplus == 0:
            return draft
        longer = draft if surplus > 0 else longer
        amount = max(0, amount - surplus)
    while longer is None:
        amount += 1
        draft = _draft(tokenizer, fixed, _cut(filler, starts, amount, depth))
        longer = draft if len(draft.encoding.ids) >= num_tokens else None
    return longer


def _cut(filler: str, starts: Sequence[int], amount: int, depth: float) -> tuple[str, str]:
    """Return the first `amount` tokens of the filler as two texts, parted at the depth."""
    if amount >= len(starts) and amount:
        raise UserError(
            f"passkey filler has {len(starts)} tokens, a prompt needs more than {amount}."
        )
    end, middle = (starts[n] if n else 0 for n in (amount, round(depth * amount)))
    return filler[:middle], filler[middle:end]


def _draft(tokenizer: Tokenizer, fixed: tuple[str, str, str], filler: tuple[str, str]) -> _Draft:
    """Return the whole prompt, every part on lines of its own."""
    introduction, needle, question = fixed
    before, after = (text and text.rstrip("\n") + "\n" for text in filler)
    first = (len(introduction), len(introduction + before))
    second = (first[1] + len(needle), first[1] + len(needle + after))
    text = introduction + before + needle + after + question
    return _Draft(text=text, encoding=_encode(tokenizer, text), filler=(first, second))
