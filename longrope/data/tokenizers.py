"""The fast tokenizer of a model folder, without importing transformers."""

from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any, Protocol

from tokenizers import Tokenizer

from longrope.data.special_ids import begin_token
from longrope.errors import UserError


class Encoder(Protocol):
    """Protocol of a `tokenizers.Tokenizer`."""

    def encode_batch(
        self, input: Sequence[Any], is_pretokenized: bool = False, add_special_tokens: bool = True
    ) -> Sequence[Any]:
        """Encode many texts on all cores, each to an object with `ids` and `offsets`."""
        ...


def encode_plain(encoder: Encoder, texts: Sequence[str]) -> Sequence[Any]:
    """Encode texts without the special tokens that the tokenizer puts around a text."""
    return encoder.encode_batch(texts, add_special_tokens=False)


def load_encoder(folder: Path) -> Tokenizer:
    """Return the tokenizer of a model folder.

    Raises:
        UserError: if the folder has no tokenizer.json, or one that cannot be read.
    """
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise UserError(
            f"{folder} has no tokenizer.json; save the model's fast tokenizer there with "
            "transformers' AutoTokenizer.from_pretrained(...).save_pretrained(...)."
        )
    try:
        encoder = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises plain Exception
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path} is not a tokenizer of the tokenizers library: {reason}.") from None
    # A saved tokenizer may silently truncate or pad.
    encoder.no_truncation()
    encoder.no_padding()
    # The text of a special token inside a document is text: <s> in a page on tokenizers begins nothing.
    encoder.encode_special_tokens = True
    return encoder


def begin_tokens(folder: Path, policy: str, encoder: Tokenizer | None = None) -> tuple[int, ...]:
    """Return the ids that every window of text begins with, usually BOS or none.

    A tokenizer adds what its post-processor puts before a text. `add_bos_token` of tokenizer_config.json
    does not count, since transformers ignores it beside a tokenizer.json.

    Args:
        folder: of a model, with tokenizer.json.
        policy: auto: what the tokenizer itself adds; always: that, or BOS if it adds nothing; never.
        encoder: the folder's tokenizer, if it is loaded already.

    Raises:
        UserError: if BOS is asked for and neither the tokenizer nor config.json names one, or if the folder
            has no tokenizer.
    """
    if policy == "never":
        return ()
    added = _added_before(load_encoder(folder) if encoder is None else encoder)
    return added if added or policy == "auto" else (_bos_id(folder),)


def num_unscored(begin: Sequence[int]) -> int:
    """Return how many tokens of a window are context only: its first ones, or the first of its text."""
    return max(1, len(begin))


def bos_label(begin: Sequence[int]) -> str:
    """Return the label that tables give to the ids that every window begins with."""
    return "yes" if begin else "no"


def _added_before(encoder: Tokenizer) -> tuple[int, ...]:
    encoding = encoder.encode("A text.")
    # tokens that the post-processor adds belong to no sequence
    first = takewhile(
        lambda pair: pair[1] is None, zip(encoding.ids, encoding.sequence_ids, strict=True)
    )
    return tuple(token for token, _ in first)


def _bos_id(folder: Path) -> int:
    token = begin_token(folder)
    if token is None:
        raise UserError(
            f"model.bos is always, but {folder} names no BOS (bos_token in tokenizer_config.json, "
            "bos_token_id in config.json); set model.bos to auto or never."
        )
    return token
