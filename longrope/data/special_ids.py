"""Agreement of a model's config.json, generation_config.json and tokenizer on special tokens and sizes.

Read as JSON, without transformers or the tokenizer itself, so that a plan can check a local folder.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from longrope.errors import UserError

ROLES = ("bos", "eos", "pad")
COMPARED = ("bos", "eos")
"""roles that rows of text are framed by; nothing here pads"""


def check_special_ids(folder: Path) -> None:
    """Refuse a model folder whose special ids contradict each other or lie outside its vocabulary.

    Files may name several ids of a role, as Llama-3 does for EOS, and one file may know more of them than
    another. The tokenizer's own has to be one of them.

    Raises:
        UserError: naming the files and the ids, or both sizes if the tokenizer is larger than the model.
    """
    config = _read(folder / "config.json")
    tokens = _vocabulary(_read(folder / "tokenizer.json"))
    size = config.get("vocab_size")
    if isinstance(size, int):
        _check_size(folder, tokens, size)
    named = _named(folder, tokens)
    for role in ROLES:
        stated = {
            name: _ids(folder / name, role, size)
            for name in ("config.json", "generation_config.json")
        }
        if role in COMPARED:
            _compare(folder, role, stated, named.get(role))


def begin_token(folder: Path) -> int | None:
    """Return the id of BOS: the tokenizer's, else that of config.json, None if neither names one."""
    named = named_tokens(folder).get("bos")
    if named is not None:
        return named[1]
    return next(iter(_ids(folder / "config.json", "bos", None)), None)


def end_token(folder: Path, default: int | list[int] | None = None) -> int:
    """Return the id that ends a document: the first EOS of config.json, else the tokenizer's.

    Args:
        folder: of a model.
        default: what transformers takes where config.json is silent, as it is on defaults when saved.

    Raises:
        UserError: if neither names one.
    """
    ids = _ids(folder / "config.json", "eos", None)
    if ids:
        return ids[0]
    named = named_tokens(folder).get("eos")
    if named is None and default is not None:
        return default[0] if isinstance(default, list) else default
    if named is None:
        raise UserError(
            f"{folder} names no EOS, which ends every document of a training (eos_token_id in config.json, "
            "eos_token in tokenizer_config.json); name it in one of them."
        )
    return named[1]


def named_tokens(folder: Path) -> dict[str, tuple[str, int]]:
    """Return text and id of BOS, EOS and padding as the tokenizer's own files name them, by role."""
    return _named(folder, _vocabulary(_read(folder / "tokenizer.json")))


def _check_size(folder: Path, tokens: Mapping[str, int], size: int) -> None:
    largest = max(tokens, key=tokens.__getitem__, default=None)
    if largest is not None and tokens[largest] >= size:
        raise UserError(
            f"{folder}: token {largest!r} of tokenizer.json has id {tokens[largest]}, and the model embeds "
            f"{size} (vocab_size in config.json); take the tokenizer that belongs to the model."
        )


def _compare(
    folder: Path, role: str, stated: Mapping[str, list[int]], named: tuple[str, int] | None
) -> None:
    sets = [set(ids) for ids in stated.values() if ids]
    listing = ", ".join(f"{ids} in {name}" for name, ids in stated.items() if ids)
    if named is not None and sets and not any(named[1] in ids for ids in sets):
        raise UserError(
            f"{folder}: {role}_token_id is {listing}, but the tokenizer's {role}_token {named[0]!r} is "
            f"{named[1]}; correct whichever is wrong."
        )
    if named is None and len(sets) == 2 and not sets[0] & sets[1]:
        raise UserError(f"{folder}: {role}_token_id is {listing}; correct whichever is wrong.")


def _ids(path: Path, role: str, size: int | None) -> list[int]:
    """Return all ids of a role in a configuration of transformers."""
    key = f"{role}_token_id"
    value = _read(path).get(key)
    ids = value if isinstance(value, list) else [] if value is None else [value]
    for token in ids:
        if not isinstance(token, int) or isinstance(token, bool) or token < 0:
            raise UserError(f"{path}: {key} is {token!r}, which is no token; correct it.")
        if isinstance(size, int) and token >= size:
            raise UserError(
                f"{path}: {key} is {token}, outside the {size} tokens that the model embeds (vocab_size in "
                "config.json); correct it."
            )
    return ids


def _named(folder: Path, tokens: Mapping[str, int]) -> dict[str, tuple[str, int]]:
    """Return text and id of the special tokens that the tokenizer's configuration names, by role."""
    named = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        content = _read(folder / name)
        for role in ROLES:
            token = content.get(f"{role}_token")
            text = token.get("content") if isinstance(token, dict) else token
            if text is None:
                continue
            if tokens and text not in tokens:
                raise UserError(
                    f"{folder / name}: {role}_token {text!r} is no token of tokenizer.json; correct it."
                )
            if text in tokens:
                named[role] = (text, tokens[text])
    return named


def _vocabulary(tokenizer: Mapping[str, Any]) -> dict[str, int]:
    """Return token -> id of a tokenizer.json, added tokens included."""
    vocabulary = tokenizer.get("model", {}).get("vocab", {})
    if isinstance(vocabulary, list):  # Unigram: pairs of token and score
        vocabulary = {pair[0]: index for index, pair in enumerate(vocabulary)}
    added = {token["content"]: token["id"] for token in tokenizer.get("added_tokens", [])}
    return {**vocabulary, **added}


def _read(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file, empty if there is no such file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError:
        raise UserError(f"{path} is not valid JSON; save the model again.") from None
    return content if isinstance(content, dict) else {}
