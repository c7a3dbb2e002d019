"""Needle-driven perplexity: the loss of the answers to keys planted in long documents.

Most tokens of a document are predicted from those just before them, whatever the factors of slow pairs.
The answer to a question about a key can only come from the depth where the key stands.
Source: Shang et al. 2025, LongRoPE2 (arXiv:2502.20082): 7-digit keys in 10 books. The wording is ours,
`longrope.data.prompts`.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from longrope.data.prompts import build_prompt, filler_of
from longrope.data.tokenizers import load_encoder
from longrope.search.workers.units import Text

KEY_RANGE = (1_000_000, 10_000_000)
"""numbers of 7 digits"""


def plant(
    stretches: Sequence[Text], tokenizer: Path, *, seed: int, begin: Sequence[int] = ()
) -> list[Text]:
    """Return stretches as the filler of prompts of their own length, of which only the answers count.

    Args:
        stretches: of documents; the end of each makes room for question and answer.
        tokenizer: folder of the model's tokenizer.
        seed: decides keys and depths; each stretch has a depth out of a part of its own.
        begin: ids that every stretch, and so every prompt, begins with.

    Raises:
        UserError: if a stretch is too short for a prompt without filler.
    """
    encoder = load_encoder(tokenizer)
    generator = np.random.default_rng(seed)
    parts = generator.permutation(len(stretches))
    depths = (parts + generator.random(len(stretches))) / len(stretches)
    return [
        _planted(
            stretch, encoder, begin, round(float(depth), 6), int(generator.integers(*KEY_RANGE))
        )
        for stretch, depth in zip(stretches, depths, strict=True)
    ]


def _planted(
    stretch: Text, tokenizer: Tokenizer, begin: Sequence[int], depth: float, number: int
) -> Text:
    length = len(stretch.tokens)
    filler = filler_of(tokenizer, stretch.tokens[len(begin) :])
    prompt = build_prompt(tokenizer, filler, length=length, depth=depth, key=number, begin=begin)
    key = {**stretch.key, "kind": "needle", "depth": depth, "number": number}
    # the wording and the tokenizer decide the tokens too
    key["tokens"] = _digest(prompt.tokens)
    return Text(prompt.tokens, key, scored_from=length - prompt.num_answer_tokens)


def _digest(tokens: NDArray[np.int64]) -> str:
    return hashlib.sha256(tokens.astype("<i8").tobytes()).hexdigest()[:16]
