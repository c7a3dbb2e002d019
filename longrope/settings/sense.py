"""Constraints between the keys of a configuration: a sentence for each that does not hold. Pure.

What one section can tell by itself, its own model refuses.
"""

from collections.abc import Iterator, Mapping, Sequence

from longrope.errors import UserError
from longrope.settings.config import Config
from longrope.settings.search import SearchMethod
from longrope.settings.training import check_batch, check_rows

LARGEST = 2**53
"""magnitude of a number; float64 holds every whole number up to it"""


def mistakes(config: Config, raw: object) -> Iterator[str]:
    """Yield a sentence for every constraint that a configuration breaks.

    Args:
        config: parsed from `raw`.
        raw: mappings, lists and scalars, as they were written.
    """
    if bool(config.extension) == bool(config.search_study):
        yield "give exactly one of extension and search_study."
    if config.seeds and "seed" in config.model_fields_set:
        yield "give one of seed and seeds, and leave the other out."
    if config.seeds and config.search_study:
        yield "seeds is for an extension; give those of a study as search_study.seeds."
    if (config.model.path is None) == (config.model.hub is None):
        yield "model: give exactly one of path and hub."
    yield from _numbers(raw, config, "")
    yield from _corpora(config)
    yield from _extension(config)
    yield from _start_tokens(config)
    yield from _finetunings(config)
    yield from _readjustment(config)
    yield from _evaluation(config)


def warnings(config: Config) -> Iterator[str]:
    """Yield a sentence for all that can be computed and may not be meant."""
    for key, finetune, _ in config.finetunings():
        if finetune.warmup_steps > finetune.num_steps:
            yield (
                f"{key}: the learning rate never reaches its peak, since warmup_steps "
                f"({finetune.warmup_steps}) exceeds num_steps ({finetune.num_steps})."
            )
        for measured, ref in config.split_refs():
            if measured.startswith("evaluate.") and ref == finetune.documents:
                yield f"{measured} measures {ref.corpus} {ref.split}, which {key}.documents trains on."
    longest = max(_factor_lengths(config), default=0)
    for key, length in _measured(config):
        if length > longest and not config.search_study:
            yield (
                f"{key} goes to {length} tokens, beyond the longest target_length and untuned length "
                f"({longest}), whose factors are used there."
            )


# Scalars ------------------------------------------------------------------------------------------


def _numbers(raw: object, value: object, key: str) -> Iterator[str]:
    """Compare what was written with what was read: true is no number, and numbers have a limit."""
    if isinstance(raw, bool) and not isinstance(value, bool):
        yield f"{key} should be a number, got {str(raw).lower()}."
    elif isinstance(raw, int) and abs(raw) > LARGEST:
        yield f"{key} should be at most 2^53 in magnitude, got {_shortened(raw)}."
    elif isinstance(raw, Mapping):
        for name, inner in raw.items():
            yield from _numbers(inner, _entry(value, name), f"{key}.{name}".lstrip("."))
    elif isinstance(raw, Sequence) and not isinstance(raw, str):
        values = value if isinstance(value, Sequence) else [None] * len(raw)
        for index, inner in enumerate(raw):
            yield from _numbers(inner, values[index], f"{key}.{index}")


def _entry(value: object, name: str) -> object:
    if isinstance(value, Mapping):
        return value.get(name)
    # settings of an algorithm may stand beside its name
    algorithm = getattr(value, "algorithm", None) if isinstance(value, SearchMethod) else None
    return getattr(value, name, getattr(algorithm, name, algorithm))


def _shortened(number: int) -> str:
    digits = number.bit_length() * 3 // 10
    return str(number) if digits < 30 else f"a number of about {digits} digits"


# Sections -----------------------------------------------------------------------------------------


def _corpora(config: Config) -> Iterator[str]:
    known = ", ".join(config.corpora) or "no corpus"
    for key, ref in config.split_refs():
        corpus = config.corpora.get(ref.corpus)
        if corpus is None:
            yield f"{key}: corpus {ref.corpus!r} is not under corpora, which has {known}."
            continue
        splits = corpus.known_splits
        if splits is not None and ref.split not in splits:
            where = "source.files" if corpus.splits is None else "splits"
            yield (
                f"{key}: corpora.{ref.corpus}.{where} has no split {ref.split!r}; it has "
                f"{', '.join(splits) or 'none'}."
            )


def _extension(config: Config) -> Iterator[str]:
    previous, holder = config.model.original_length, "model.original_length"
    trained = True
    for index, step in enumerate(config.extension):
        key = f"extension.{index}"
        if step.target_length <= previous:
            yield f"{key}.target_length must exceed {holder} ({previous}), got {step.target_length}."
        if step.finetune and not trained:
            yield f"{key}.finetune cannot follow a step without finetune; move it earlier."
        previous, holder = step.target_length, f"{key}.target_length"
        trained = bool(step.finetune)


def _start_tokens(config: Config) -> Iterator[str]:
    """Refuse start tokens beyond the original window, unless they are the default ones."""
    window = config.model.original_length
    for key, search in config.searches():
        most = max(search.start_tokens)
        if "start_tokens" in search.model_fields_set and most >= window:
            yield f"{key}.start_tokens must stay below model.original_length ({window}), got {most}."


def _finetunings(config: Config) -> Iterator[str]:
    window = config.model.original_length
    for key, finetune, target in config.finetunings():
        warmup, steps = finetune.warmup_steps, finetune.num_steps
        if "warmup_steps" in finetune.model_fields_set and warmup > steps:
            yield f"{key}.warmup_steps must not exceed num_steps ({steps}), got {warmup}."
        try:
            check_batch(finetune.batch_size, config.micro_batch_size)
            check_rows(finetune, finetune.text_length or target, window, target)
        except UserError as error:
            yield str(error)


def _readjustment(config: Config) -> Iterator[str]:
    if config.readjust is None:
        return
    tuned = max((target for _, _, target in config.finetunings()), default=None)
    if tuned is None:
        yield "readjust needs a fine-tuned model: give a step of extension a finetune."
    elif config.readjust.lengths[-1] >= tuned:
        yield (
            f"readjust.lengths must stay below the tuned target_length ({tuned}), "
            f"got {config.readjust.lengths[-1]}."
        )


def _evaluation(config: Config) -> Iterator[str]:
    evaluate, window = config.evaluate, config.model.original_length
    shortest = min(evaluate.untuned_lengths, default=None)
    if shortest is not None and shortest <= window:
        yield f"evaluate.untuned_lengths must exceed model.original_length ({window}), got {shortest}."
    for task in evaluate.tasks:
        if "longrope" in task.base_methods and not evaluate.untuned_lengths:
            yield (
                f"evaluate: {task.name}.methods has longrope, which needs factors searched on the base "
                f"model; give untuned_lengths, or give {task.name}.methods without longrope."
            )
    perplexity = evaluate.perplexity
    if perplexity is not None and perplexity.protocol == "sliding":
        longest = max(lengths[-1] for lengths in perplexity.lengths.values())
        if "stride" in perplexity.model_fields_set and perplexity.stride >= longest:
            yield (
                f"evaluate.perplexity.stride must stay below the longest of lengths ({longest}), "
                f"got {perplexity.stride}."
            )


def _factor_lengths(config: Config) -> list[int]:
    return [step.target_length for step in config.extension] + config.evaluate.untuned_lengths


def _measured(config: Config) -> Iterator[tuple[str, int]]:
    """Yield the longest length of each task's lengths, with their key."""
    if config.evaluate.perplexity is not None:
        for name, lengths in config.evaluate.perplexity.lengths.items():
            yield f"evaluate.perplexity.lengths.{name}", lengths[-1]
    if config.evaluate.passkey is not None:
        yield "evaluate.passkey.lengths", config.evaluate.passkey.lengths[-1]
