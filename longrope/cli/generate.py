"""`generate`: continue a prompt with a model under a table of factors."""

import argparse
import importlib
import sys
from pathlib import Path
from typing import Any

import longrope
from longrope import reading
from longrope.data.tokenizers import begin_tokens, encode_plain, load_encoder
from longrope.errors import UserError
from longrope.rope.factors import FactorTable, RopeFactors
from longrope.rope.switching import stretches


def add(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verb to the command line."""
    verb = verbs.add_parser("generate", help="continue a prompt under searched factors")
    verb.add_argument("model", type=Path, help="folder saved by transformers")
    verb.add_argument("--factors", type=Path, required=True, help="factors, or a table of them")
    verb.add_argument("--prompt-file", type=Path, required=True, help="text to continue, UTF-8")
    verb.add_argument("--max-new-tokens", type=int, required=True, metavar="N")
    verb.add_argument(
        "--switch",
        choices=("start", "recompute"),
        default="start",
        help="take the factors for prompt and N tokens from the start, or change where the text passes an "
        "entry of the table, computing all of it again",
    )
    verb.add_argument("--temperature", type=float, default=0.0, help="0, the default: no sampling")
    verb.add_argument("--seed", type=int, default=0, help="of sampling")
    verb.add_argument("--prefill-chunk", type=int, metavar="TOKENS", help="of the prompt at once")
    verb.add_argument("--cache", choices=("dynamic", "static"), default="dynamic")
    verb.add_argument("--bos", choices=("auto", "always", "never"), default="auto")
    verb.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    verb.add_argument(
        "--full-attention", action="store_true", help="switch a sliding window of the model off"
    )
    verb.add_argument(
        "--rope-scaling", default="refuse", help="model.rope_scaling of a configuration"
    )
    verb.set_defaults(verb=_generate)


def _generate(options: argparse.Namespace) -> None:
    table = read_table(options.factors)
    encoder = load_encoder(options.model)
    prompt = list(encode_plain(encoder, [_prompt(options.prompt_file)])[0].ids)
    prompt = [*begin_tokens(options.model, options.bos, encoder), *prompt]
    (new,) = longrope.generate(
        _model(options),
        table,
        [prompt],
        begin=(),
        max_new_tokens=options.max_new_tokens,
        switch=options.switch,
        temperature=options.temperature,
        seed=options.seed,
        prefill_chunk=options.prefill_chunk,
        cache=options.cache,
    )
    _report(table, len(prompt), len(new), options)
    print(continuation(encoder, prompt, new))


def read_table(path: Path) -> FactorTable:
    """Read a table of factors, or one set of factors as a table of one entry.

    Raises:
        UserError: if the file holds neither.
    """
    if reading.is_file(path) and b'"entries"' in reading.read_bytes(path):
        return FactorTable.read(path)
    return FactorTable(entries=(RopeFactors.read(path),))


def _prompt(path: Path) -> str:
    """Return the text of a file without the line feed that editors put at its end."""
    try:
        text = reading.read_text(path)
    except (*reading.ABSENT, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not a text in UTF-8: {error}.") from None
    text = text.removesuffix("\n")
    if not text:
        raise UserError(f"{path} is empty; write the text to continue to it.")
    return text


def _model(options: argparse.Namespace) -> Any:
    # imported by name, so that other verbs start without torch
    context = importlib.import_module("longrope.models.score_context")
    return context.load_for_scoring(
        options.model,
        dtype=options.dtype,
        full_attention=options.full_attention,
        rope_scaling=options.rope_scaling,
    )


def _report(table: FactorTable, num_prompt: int, num_new: int, options: argparse.Namespace) -> None:
    """Print lengths, and the entry of each stretch, to standard error."""
    total = num_prompt + (options.max_new_tokens if options.switch == "start" else num_new)
    print(f"longrope: prompt {num_prompt} tokens, continuation {num_new}", file=sys.stderr)
    for part in stretches(table, num_prompt, total, options.switch):
        end = min(part.end, num_prompt + num_new)
        length = part.factors.target_length
        print(f"longrope: up to token {end} under the factors for {length}", file=sys.stderr)


def continuation(encoder: Any, prompt: list[int], new: list[int]) -> str:
    """Return the text of new tokens, with the space before them that some tokenizers drop at a beginning."""
    before, whole = (
        encoder.decode(ids, skip_special_tokens=True) for ids in (prompt, prompt + new)
    )
    if whole.startswith(before):
        return str(whole[len(before) :])
    return str(encoder.decode(new, skip_special_tokens=True))
