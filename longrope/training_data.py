"""Rows that a model is fine-tuned on: chunks of documents and passkey prompts, also at other positions.

A row has `input_ids` and `labels`, shape (T,). One whose tokens stand elsewhere than at 0, 1, 2, ... also has
`positions`, shape (T,), and `piece_length`: 0, or the length of the pieces that it is made of.

Every row is a function of the seed and its place in the run, so data order does not depend on the number
of devices and a resumed run sees what an uninterrupted one does.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from longrope.corpora import TokenStore
from longrope.prompts import Encode, build_prompt, classic_filler, draw_key


@dataclass(frozen=True, kw_only=True)
class Mix:
    """What the training rows are."""

    text_length: int
    """tokens per row"""
    num_rows: int
    """rows of the whole run: steps * batch size"""
    passkey_fraction: float
    """fraction of rows that are passkey prompts, half in the classic filler, half in document text"""
    begin_token: int
    """BOS, first of every chunk of text"""
    end_token: int
    """EOS, last of every chunk of text"""
    seed: int


class Chunks(Dataset[dict[str, torch.Tensor]]):
    """Rows of text between BOS and EOS, and passkey prompts, in an order fixed by the seed."""

    def __init__(self, store: TokenStore, encode: Encode, mix: Mix) -> None:
        self._store = store
        self._encode = encode
        self._mix = mix
        self._body = mix.text_length - 2
        self._places = self._all_places()
        self._classic = classic_filler(encode, mix.text_length)

    def _all_places(self) -> list[tuple[int, int]]:
        """Return (document, first token) of every whole chunk."""
        documents = self._store.long_enough(
            self._body, f"fine-tuning documents for text length {self._mix.text_length}"
        )
        return [
            (document, begin)
            for document in documents
            for begin in range(0, int(self._store.lengths[document]) - self._body + 1, self._body)
        ]

    def __len__(self) -> int:
        return self._mix.num_rows

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        generator = np.random.default_rng([self._mix.seed, 1, index])
        passkey = generator.random() < self._mix.passkey_fraction
        row = self._prompt(index, generator) if passkey else self._text(index)
        tokens = torch.from_numpy(row)
        return {"input_ids": tokens, "labels": tokens}

    def _place(self, index: int) -> tuple[int, int]:
        epoch, position = divmod(index, len(self._places))
        order = np.random.default_rng([self._mix.seed, 0, epoch]).permutation(len(self._places))
        return self._places[int(order[position])]

    def _text(self, index: int) -> NDArray[np.int64]:
        document, begin = self._place(index)
        body = self._store.document(document, begin, begin + self._body)
        return np.concatenate([[self._mix.begin_token], body, [self._mix.end_token]])

    def _prompt(self, index: int, generator: np.random.Generator) -> NDArray[np.int64]:
        classic = generator.random() < 0.5
        prompt = build_prompt(
            self._encode,
            self._classic if classic else self._text(index),
            length=self._mix.text_length,
            # Both ends get a share of their own, or a needle right at one would never be trained on.
            depth=float(np.clip(generator.uniform(-0.1, 1.1), 0.0, 1.0)),
            key=draw_key(generator),
        )
        return prompt.tokens


class Skipped(Dataset[dict[str, torch.Tensor]]):
    """Rows whose positions jump once, so that short rows show the positions of a long one.

    A row is cut at a random place, and what follows is moved by a random number of positions. Unlike in the
    paper both parts are neighbours in their document.

    Source: Zhu et al. 2023, PoSE (arXiv:2309.10400), section 3, with two chunks.
    """

    def __init__(
        self, rows: Dataset[dict[str, torch.Tensor]], target_length: int, seed: int
    ) -> None:
        self._rows = rows
        self._target_length = target_length
        self._seed = seed

    def __len__(self) -> int:
        return len(self._rows)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        row = self._rows[index]
        positions = skipping_positions(
            len(row["input_ids"]),
            self._target_length,
            np.random.default_rng([self._seed, 2, index]),
        )
        return row | {"positions": torch.from_numpy(positions), "piece_length": torch.tensor(0)}


def skipping_positions(
    length: int, target_length: int, generator: np.random.Generator
) -> NDArray[np.int64]:
    """Return rising positions from 0, below the target length, with one jump.

    Args:
        length: tokens of the row, at least 2.
        target_length: at least the row's length.
        generator: draws the place of the jump and its size, both uniformly.

    Returns:
        Shape (length,).
    """
    positions = np.arange(length)
    positions[generator.integers(1, length) :] += generator.integers(target_length - length + 1)
    return positions


class Mixed(Dataset[dict[str, torch.Tensor]]):
    """Long rows, and rows of short pieces, each of which knows nothing of the others.

    A piece is as long as the original window; its positions begin at 0.

    Source: Shang et al. 2025, LongRoPE2 (arXiv:2502.20082), mixed context window training. There documents
    of any length up to the window are packed; here all pieces are of the window's length.
    """

    def __init__(
        self,
        rows: Dataset[dict[str, torch.Tensor]],
        pieces: Dataset[dict[str, torch.Tensor]],
        short_fraction: float,
        seed: int,
    ) -> None:
        """Mix rows.

        Args:
            rows: the long ones, T tokens each.
            pieces: as many for each row as it has room for; those of long rows are passed over.
            short_fraction: how many rows are of pieces.
            seed: of the draws.
        """
        self._rows = rows
        self._pieces = pieces
        self._short_fraction = short_fraction
        self._seed = seed
        self._length = len(rows[0]["input_ids"])
        self._piece_length = len(pieces[0]["input_ids"])

    def __len__(self) -> int:
        return len(self._rows)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        if np.random.default_rng([self._seed, 3, index]).random() < self._short_fraction:
            return self._short(index)
        plain = {"positions": torch.arange(self._length), "piece_length": torch.tensor(0)}
        return plain | self._rows[index]

    def _short(self, index: int) -> dict[str, torch.Tensor]:
        count = self._length // self._piece_length
        pieces = [self._pieces[number] for number in range(index * count, (index + 1) * count)]
        joined = {name: torch.cat([piece[name] for piece in pieces]) for name in pieces[0]}
        return joined | {
            "positions": torch.arange(self._length) % self._piece_length,
            "piece_length": torch.tensor(self._piece_length),
        }
