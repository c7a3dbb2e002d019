"""The method on a model in memory: install factors, measure perplexity, generate, search.

Texts are sequences of token ids or, with the model's tokenizer, strings; each is one document. Nothing
persists: scores are remembered in a temporary folder while a call runs, and the model's rotary embedding is
restored. `longrope.stages` does the same on files.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from longrope.data.model_config import require_extensible
from longrope.data.token_store import TokenStore, encode, write_tokens
from longrope.data.tokenizers import Encoder, begin_tokens, load_encoder, num_unscored
from longrope.errors import UserError, validated
from longrope.models import generation, loading, rotary
from longrope.rope.factors import FactorTable, RopeFactors
from longrope.rope.methods import closed_form
from longrope.rope.switching import Switch, require_room
from longrope.runtime import Input
from longrope.search.algorithms.problem import extension_problem
from longrope.search.driver import run_search
from longrope.search.objective import Objective, search_objective, stretch
from longrope.search.objective import perplexity as perplexity_of
from longrope.search.workers.model import ModelWorker
from longrope.search.workers.pools import InProcess
from longrope.search.workers.units import Text, Unit
from longrope.settings.common import CHUNK_LENGTH, AttentionScale
from longrope.settings.nodes import SearchNode
from longrope.settings.search import SearchMethod
from longrope.store.score_memory import ScoreMemory

LOGGER = logging.getLogger(__name__)

Texts = Sequence[str] | Sequence[Sequence[int]] | Sequence[NDArray[np.integer[Any]]]
Factors = RopeFactors | FactorTable


def install(model: PreTrainedModel, factors: Factors) -> None:
    """Put factors into a model, which then runs and generates under them.

    A table is read at the length of each forward call, so that a sequence that grows past an entry, as in
    `model.generate`, has keys of two entries in its cache, which `longrope.generate` avoids; one set of
    factors holds for every length.

    Args:
        model: causal language model of transformers, of a supported architecture.
        factors: one set, or a table of them by length; one factor per rotary pair.

    Raises:
        UserError: if the model cannot be extended.
        ValueError: if there is not one factor per rotary pair.
    """
    table = _table(model, factors)
    geometry = loading.geometry(model, table.entries[0].original_length)
    rotary.install(model, geometry).use_table(table)


def perplexity(
    model: PreTrainedModel,
    texts: Texts,
    factors: Factors | None = None,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    length: int | None = None,
    begin: Sequence[int] | None = None,
    chunk_length: int = CHUNK_LENGTH,
) -> float:
    """Return the perplexity of texts: exp(nats per predicted token, over the tokens of all texts).

    Args:
        model: causal language model of transformers, in evaluation mode, on the device to compute on.
        texts: token ids of each text, or strings with a tokenizer.
        factors: one set, or a table that is read at the length of each text; None: the model's own.
        tokenizer: fast tokenizer of the model, for strings.
        length: first tokens of each text to score, `begin` included; texts too short are left out,
            which is logged. None: whole texts.
        begin: ids put before every text; None: what the tokenizer puts there, nothing without one.
        chunk_length: tokens scored at once; bounds memory, changes results by rounding only.

    Returns:
        At least 1, dimensionless; inf where a loss is not finite.

    Raises:
        UserError: if the model cannot be extended, or the texts are not as described or all too short.
        ValueError: if there is not one factor per rotary pair, or the model is in training mode.
    """
    table = _table(model, factors)
    worker = ModelWorker(lambda: model, chunk_length=chunk_length)
    with rotary.restored(model), _corpus(model, texts, tokenizer) as folder:
        begin_ids = _begin(folder, tokenizer, begin)
        windows = _first_windows(TokenStore(folder), length, begin_ids)
        scores = [worker.score(Unit(table.at(len(text.tokens)), text)) for text in windows]
    num_tokens = sum(score.num_tokens for score in scores)
    return perplexity_of(sum(score.nll for score in scores) / num_tokens)


def generate(
    model: PreTrainedModel,
    factors: Factors,
    texts: Texts,
    *,
    max_new_tokens: int,
    switch: Switch = "start",
    temperature: float = 0.0,
    seed: int = 0,
    prefill_chunk: int | None = None,
    cache: str = "dynamic",
    tokenizer: PreTrainedTokenizerBase | None = None,
    begin: Sequence[int] | None = None,
) -> list[list[int]]:
    """Return the tokens with which a model continues texts, computed as one batch.

    Each text gets the continuation that it gets alone; a text that was continued and is given again gets the
    rest of its continuation, sampled or not (but for rounding, which may decide between equal logits).

    Args:
        model: causal language model of transformers, in evaluation mode, on the device to compute on. Of
            its generation config only EOS is read.
        factors: one set, or a table of them by length; its longest entry has room for text and continuation.
        texts: token ids of each text, or strings with a tokenizer.
        max_new_tokens: fewer where the model ends its text with EOS, which is returned too.
        switch: which entry of a table a text that may grow past one runs under. `start`: that of its length
            plus `max_new_tokens` from its first token on; `recompute`: that of the
            present length, and where it passes an entry all of it is computed again under the next.
        temperature: 0 takes the likeliest token; else divides the logits before sampling.
        seed: of sampling. Equal texts in a batch get equal continuations.
        prefill_chunk: tokens of a text computed at once, which bounds memory; None: all.
        cache: `dynamic`, or `static`, which has its final size from the start.
        tokenizer: fast tokenizer of the model, for strings.
        begin: ids put before every text; None: what the tokenizer puts there, nothing without one.

    Returns:
        New token ids of each text.

    Raises:
        UserError: if the model cannot be extended, the factors are of another model or for shorter texts, a
            text is empty, or an argument is out of bounds.
        ValueError: if the model is in training mode.
    """
    table = _table(model, factors)
    values = {
        "max_new_tokens": max_new_tokens,
        "switch": switch,
        "temperature": temperature,
        "seed": seed,
        "prefill_chunk": prefill_chunk,
        "cache": cache,
    }
    decoding = validated(generation.Decoding, values, source="generate")
    prompts = _prompts(model, texts, tokenizer, begin)
    for number, prompt in enumerate(prompts):
        name = f"text {number}" if len(prompts) > 1 else "the prompt"
        require_room(table, len(prompt), decoding.max_new_tokens, name)
    return generation.generate(model, table, prompts, decoding)


def search_factors(
    model: PreTrainedModel,
    texts: Texts,
    *,
    target_length: int,
    original_length: int | None = None,
    base: RopeFactors | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    begin: Sequence[int] | None = None,
    attention_scale: AttentionScale = "yarn",
    seed: int = 0,
    chunk_length: int = CHUNK_LENGTH,
    **search: Any,
) -> RopeFactors:
    """Search for the factors that extend a model's window to a length, by perplexity on long texts.

    Args:
        model: causal language model of transformers, in evaluation mode, on the device to compute on.
        texts: token ids of each text, or strings with a tokenizer. Random stretches of `target_length`
            tokens are scored, of different texts while there are any.
        target_length: window to search for, tokens.
        original_length: window the model was pretrained with, tokens; None: that of its config.
        base: factors the model was fine-tuned under, which the searched ones multiply; None: pretrained.
        tokenizer: fast tokenizer of the model, for strings and for the objective `needle`.
        begin: ids put before every stretch; None: what the tokenizer puts there, nothing without one.
        attention_scale: `yarn`, `su` or a number, as in a configuration.
        seed: of stretches and algorithm; the same seed gives the same factors.
        chunk_length: tokens scored at once; bounds memory, changes results by rounding only.
        **search: settings of the search as in a configuration, such as `algorithm="evolution"` or
            `num_documents=3`.

    Returns:
        The best factors; their provenance records perplexity and cost. The model is as it was.

    Raises:
        UserError: if the model cannot be extended, the texts are not as described or none is long enough,
            or a setting is wrong.
        ValueError: if no candidate has a finite perplexity, or the model is in training mode.
    """
    _require_extensible(model)
    geometry = loading.geometry(model, original_length)
    method = validated(SearchMethod, search, source="search_factors")
    values = {
        "model": _name(model),
        "original_length": geometry.original_length,
        "source_length": geometry.original_length if base is None else base.target_length,
        "target_length": target_length,
        "attention_scale": attention_scale,
        "search": method.model_copy(update={"algorithm": method.algorithm.at(target_length)}),
        "seed": seed,
    }
    settings = validated(SearchNode, values, source="search_factors")
    problem = extension_problem(settings, geometry, base.factors if base else None)
    pool = InProcess(ModelWorker(lambda: model, chunk_length=chunk_length))
    with rotary.restored(model), _corpus(model, texts, tokenizer) as folder:
        begin_ids = _begin(folder, tokenizer, begin)
        objective = _objective(pool, settings, folder, tokenizer, begin_ids)
        return run_search(settings, problem, objective, folder / "history.jsonl", begin=begin_ids)


def _objective(
    pool: InProcess,
    settings: SearchNode,
    folder: Path,
    tokenizer: PreTrainedTokenizerBase | None,
    begin: tuple[int, ...],
) -> Objective:
    """Return the objective of a search on the texts in a folder."""
    if settings.search.objective == "needle" and tokenizer is None:
        raise UserError("search_factors: objective needle plants keys in words; give tokenizer.")
    here = Input(folder, identity="")
    return search_objective(
        pool,
        settings,
        here,
        ScoreMemory(folder / "scores", {}),
        length=settings.target_length,
        begin=begin,
        tokenizer=here,
    )


# Models -------------------------------------------------------------------------------------------


def _name(model: PreTrainedModel) -> str:
    return Path(model.name_or_path or "").name or type(model).__name__


def _require_extensible(model: PreTrainedModel) -> None:
    require_extensible(f"the model {_name(model)}", model.config.to_dict())


def _table(model: PreTrainedModel, factors: Factors | None) -> FactorTable:
    """Return factors as a table; None: the model's current ones."""
    _require_extensible(model)
    if isinstance(factors, FactorTable):
        return factors
    if factors is not None:
        return FactorTable(entries=(factors,))
    present: Any = model.base_model.rotary_emb
    if isinstance(present, rotary.LongRopeRotary):
        return present.table
    geometry = loading.geometry(model)
    return FactorTable(entries=(closed_form("none", geometry, geometry.original_length),))


# Texts --------------------------------------------------------------------------------------------


@contextmanager
def _corpus(
    model: PreTrainedModel, texts: Texts, tokenizer: PreTrainedTokenizerBase | None
) -> Iterator[Path]:
    """Write texts as a token store, with the tokenizer, to a temporary folder."""
    if isinstance(texts, str) or len(texts) == 0:
        raise UserError(
            "texts must be a list with at least one text; got an empty one or one string."
        )
    with TemporaryDirectory(prefix="longrope-") as name:
        folder = Path(name)
        if tokenizer is not None:
            _backend(tokenizer).save(str(folder / "tokenizer.json"))
        encoder = load_encoder(folder) if tokenizer is not None else None
        vocabulary_size = int(model.config.vocab_size)
        write_tokens(folder, _documents(texts, encoder, vocabulary_size), vocabulary_size)
        yield folder


def _backend(tokenizer: PreTrainedTokenizerBase) -> Any:
    """Return the tokenizer of the tokenizers library inside one of transformers."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise UserError(
            f"tokenizer is a {type(tokenizer).__name__}; give a fast tokenizer of transformers, such as "
            "longrope.load_tokenizer returns."
        )
    return backend


def _documents(
    texts: Texts, encoder: Encoder | None, vocabulary_size: int
) -> Iterator[tuple[str, Iterator[NDArray[np.int64]]]]:
    """Yield name and tokens of each text."""
    for number, text in enumerate(texts):
        if isinstance(text, str) and encoder is None:
            raise UserError(f"text {number} is a string; give the model's tokenizer, or token ids.")
        arrays = encode(encoder, text) if isinstance(text, str) and encoder else [_ids(text)]
        yield f"text {number}", (_checked(ids, number, vocabulary_size) for ids in arrays)


def _ids(text: Any) -> NDArray[Any]:
    """Return ids as an array; anything but a row of whole numbers gets another shape or dtype."""
    try:
        return np.asarray(text.cpu() if isinstance(text, torch.Tensor) else text)
    except ValueError:
        return np.empty((1, 1))


def _checked(ids: NDArray[Any], number: int, vocabulary_size: int) -> NDArray[np.int64]:
    if ids.size and not (ids.ndim == 1 and ids.dtype.kind in "iu"):
        raise UserError(f"text {number} must be a string or a row of token ids, whole numbers.")
    if ids.size and not 0 <= ids.min() <= ids.max() < vocabulary_size:
        raise UserError(
            f"text {number} has token ids from {ids.min()} to {ids.max()}, but the model knows 0 to "
            f"{vocabulary_size - 1}; use its own tokenizer."
        )
    return ids.astype(np.int64)


def _begin(
    folder: Path, tokenizer: PreTrainedTokenizerBase | None, begin: Sequence[int] | None
) -> tuple[int, ...]:
    """Return the ids that every window begins with."""
    if begin is not None:
        return tuple(begin)
    return begin_tokens(folder, "auto") if tokenizer is not None else ()


def _prompts(
    model: PreTrainedModel,
    texts: Texts,
    tokenizer: PreTrainedTokenizerBase | None,
    begin: Sequence[int] | None,
) -> list[list[int]]:
    """Return the ids of texts to continue, none of them empty."""
    _refuse_empty(texts)
    with _corpus(model, texts, tokenizer) as folder:
        begin_ids = _begin(folder, tokenizer, begin)
        store = TokenStore(folder)
        prompts = [[*begin_ids, *store.document(number)] for number in range(len(store))]
    _refuse_empty(prompts)
    return prompts


def _refuse_empty(texts: Sequence[Any]) -> None:
    empty = next((number for number, text in enumerate(texts) if len(text) == 0), None)
    if empty is not None:
        raise UserError(f"text {empty} is empty; give at least one token to continue.")


def _first_windows(store: TokenStore, length: int | None, begin: tuple[int, ...]) -> list[Text]:
    """Return the first `length` tokens of each text, or all of it; texts too short are left out."""
    least = num_unscored(begin) + 1
    if length is not None and length < least:
        raise UserError(f"length must be at least {least} tokens, got {length}.")
    room = (length or least) - len(begin)
    chosen = store.long_enough(room, "texts to score")
    if len(chosen) < len(store):
        LOGGER.warning(
            "%d of %d texts have no %d tokens", len(store) - len(chosen), len(store), room
        )
    ends = [room if length else int(store.lengths[number]) for number in chosen]
    return [stretch(store, number, 0, end, begin) for number, end in zip(chosen, ends, strict=True)]
