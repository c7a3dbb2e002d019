"""Folders that transformers 4.57 and 5 load without remote code, and vLLM too.

Factors stand in config.json twice: transformers 5 prefers `rope_scaling` and falls back on `rope_parameters`,
transformers 4 knows the former alone. transformers scales by `attention_factor`, vLLM by `short_mscale` and
`long_mscale`. Weights and tokenizer are copied.
"""

import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path

from longrope import reading
from longrope.data.model_weights import INDEX, SINGLE, weight_files
from longrope.exports.licences import terms
from longrope.exports.selection import Export
from longrope.rope import huggingface
from longrope.rope.factors import FactorTable
from longrope.rope.methods import su_attention_scale

COPIED = (
    *("tokenizer.json", "tokenizer.model", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "merges.txt", "chat_template.jinja", "chat_template.json"),
    "generation_config.json",
)
"""files of a model besides weights and what is edited, copied where they are present"""
DROPPED = ("rope_scaling", "rope_parameters", "auto_map", "_name_or_path", "transformers_version")
"""keys of config.json that are written anew, or hold for the base model alone"""


def check(export: Export) -> None:
    """Accept every export: all architectures that can be extended have the `longrope` type."""
    del export


def as_run(export: Export) -> FactorTable:
    """Return the factors that transformers applies: one attention scale for both sets."""
    if export.sets == "long":
        return FactorTable(entries=(export.long,))
    scale = {"attention_scale": export.long.attention_scale}
    return FactorTable(entries=(export.short.model_copy(update=scale), export.long))


def write(export: Export, folder: Path) -> None:
    """Write weights, tokenizer and config.json."""
    for path in _copied_files(export):
        # contents alone: a copy has the mode of a new file
        shutil.copyfile(path, folder / path.name)
    _write_json(folder / "config.json", config_json(export))
    if reading.is_file(export.model / "tokenizer_config.json"):
        tokenizer = json.loads(reading.read_text(export.model / "tokenizer_config.json"))
        _write_json(
            folder / "tokenizer_config.json", _tokenizer_json(tokenizer, export.long.target_length)
        )


def _copied_files(export: Export) -> Iterator[Path]:
    """Yield the files that are copied; of a fine-tuned model, some are beside its base model only."""
    weights = weight_files(export.model)
    yield from weights
    if weights[0].name != SINGLE:
        yield export.model / INDEX
    for name in COPIED:
        places = (export.model / name, export.base / name)
        yield from [path for path in places if reading.is_file(path)][:1]
    yield from terms(export.base)


def _write_json(path: Path, content: dict[str, object]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


# Configuration ------------------------------------------------------------------------------------


def config_json(export: Export) -> dict[str, object]:
    """Return config.json of an export."""
    kept = {key: value for key, value in export.config.items() if key not in DROPPED}
    if export.full_attention:
        kept |= _without_window(kept)
    rotary = {
        "rope_theta": export.geometry.rope_theta,
        "partial_rotary_factor": export.geometry.partial_rotary_factor,
    }
    block = huggingface.rope_parameters(
        export.long.model_copy(update=rotary), export.short.model_copy(update=rotary)
    )
    scaling = _scaling_of_version_4(export, block)
    return {
        **kept,
        **_outer_rotary(export),
        huggingface.ORIGINAL: export.long.original_length,
        huggingface.MAXIMUM: export.long.target_length,
        "rope_parameters": block,
        **({} if scaling is None else {"rope_scaling": scaling}),
    }


def _scaling_of_version_4(export: Export, block: dict[str, object]) -> dict[str, object] | None:
    """Return the block that transformers 4 reads, None where it would refuse it.

    Its Phi-3 takes type and factors alone, and then both versions scale attention by the formula.
    """
    kind = {"rope_type": "longrope", "type": "longrope"}
    if not export.architecture.only_formula_scale:
        return kind | {key: v for key, v in block.items() if key not in huggingface.ROTARY_KEYS}
    if not _scales_by_formula(export):
        return None
    return {"type": "longrope"} | {key: block[key] for key in huggingface.MSCALES}


def _scales_by_formula(export: Export) -> bool:
    """Return whether the attention scale is the one that transformers derives from the lengths."""
    long = export.long
    formula = su_attention_scale(long.scale, long.original_length)
    return math.isclose(long.attention_scale, formula, rel_tol=1e-9)


def _outer_rotary(export: Export) -> dict[str, float]:
    """Return base and rotated share at the top level, where transformers 4 reads them."""
    theta_key, share_key = export.architecture.rotary_keys
    geometry = export.geometry
    return {theta_key: geometry.rope_theta, share_key: geometry.partial_rotary_factor}


def _without_window(config: dict[str, object]) -> dict[str, object]:
    """Return the keys by which a config switches its sliding window off."""
    changes: dict[str, object] = {"sliding_window": None}
    if "use_sliding_window" in config:
        changes["use_sliding_window"] = False
    layers = config.get("layer_types")
    if isinstance(layers, list):
        changes["layer_types"] = ["full_attention"] * len(layers)
    return changes


def _tokenizer_json(config: dict[str, object], target_length: int) -> dict[str, object]:
    """Return tokenizer_config.json for the new window, with a class that both versions know."""
    kept = {key: value for key, value in config.items() if key != "auto_map"}
    if "model_max_length" in kept:
        kept["model_max_length"] = target_length
    if kept.get("tokenizer_class") == "TokenizersBackend":
        kept["tokenizer_class"] = "PreTrainedTokenizerFast"
    return kept


# Traps --------------------------------------------------------------------------------------------


def traps(export: Export) -> list[str]:
    """Return sentences on where engines misbehave with this export."""
    sets = _traps_of_both(export) if export.sets == "both" else _traps_of_long(export)
    return [*sets, *_traps_of_engines(export)]


def _traps_of_long(export: Export) -> list[str]:
    original = export.long.original_length
    return [
        f"The long factors hold at every length. For texts of up to {original:,} tokens the base model, "
        "without them, is usually better: keep it beside this folder."
    ]


def _traps_of_both(export: Export) -> list[str]:
    original = export.long.original_length
    sentences = [
        f"transformers picks the set anew in every forward pass, and for a whole batch: above {original:,} "
        "positions the long one. Prefilling in chunks begins with the short one.",
        f"vLLM takes the long set for all requests if `--max-model-len` is above {original:,}, llama.cpp if "
        "its context is: start one server for short and one for long texts.",
    ]
    sentences.insert(0, _trap_of_cache(original, renews=export.architecture.renews_cache))
    near, far = export.short.attention_scale, export.long.attention_scale
    if near != far:
        sentences.append(
            f"transformers has one attention scale for both sets, {far:.6g}; the short set was made for "
            f"{near:.6g}, which stands in `short_mscale` of `rope_parameters` for engines that read it."
        )
    return sentences


def _trap_of_cache(original: int, *, renews: bool) -> str:
    if renews:
        return (
            f"`generate` of transformers computes the cache anew when a text grows past {original:,} tokens; "
            "a loop of your own around forward passes mixes keys of both sets."
        )
    return (
        f"In transformers a text must not grow past {original:,} tokens with a cache: keys of both sets "
        "are mixed without a warning, and perplexity behind that length is much worse. Start with more than "
        f"{original:,} tokens, stay below, or export with `--sets long`."
    )


def _traps_of_engines(export: Export) -> list[str]:
    original, target = export.long.original_length, export.long.target_length
    sentences = [
        f"vLLM serves {original:,} tokens unless it is told more: give `--max-model-len {target}`.",
        "vLLM ignores `attention_factor` and reads `short_mscale` and `long_mscale`; leave all three in "
        "config.json.",
    ]
    if export.architecture.only_formula_scale and not _scales_by_formula(export):
        sentences.append(
            "transformers 4 runs this folder as plain RoPE, without a word: its Phi-3 has no place for an "
            "attention scale other than its formula's. Use transformers 5."
        )
    return [*sentences, *_trap_of_gguf(export)]


def _trap_of_gguf(export: Export) -> list[str]:
    """Return a sentence on llama.cpp, which rotates whole heads only."""
    kind = export.architecture.gguf_factors
    if kind == "impossible" or export.geometry.partial_rotary_factor != 1:
        return ["llama.cpp cannot run these factors with this architecture."]
    if kind == "written":
        return []
    return [
        "The public converter to GGUF writes no factors for this architecture, and llama.cpp then runs "
        "plain RoPE without a word."
    ]
