"""Reader and writer of the `longrope` block of a Hugging Face config.json.

Lengths, base and attention scale that a config omits are those of `_compute_longrope_parameters` and
`standardize_rope_params` in transformers' modeling_rope_utils. Such a model has no start tokens.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from longrope.architectures import ARCHITECTURES
from longrope.errors import UserError
from longrope.rope.factors import RopeFactors
from longrope.rope.methods import su_attention_scale
from longrope.rope.stated import Fields, StatedFacts, is_number

ORIGINAL = "original_max_position_embeddings"
MAXIMUM = "max_position_embeddings"
DEFAULT_ORIGINALS = {"phi3": 4096, "phi4_multimodal": 4096}
"""model_type -> original length where config.json has none at its top level, also if its block has one"""
PART = "partial_rotary_factor"
ROTARY_KEYS = {"rope_theta": ("rope_theta", "rotary_emb_base"), PART: (PART, "rotary_pct")}
"""Field of RopeFactors -> its key, and that of GPT-NeoX"""
MSCALES = {"long_factor": "long_mscale", "short_factor": "short_mscale"}
"""Factors -> their own attention scale, in vLLM and PhiMoE."""
LEFT_OUT = "its short_factor is left out; --short-set reads it"
"""note on a long set beside short factors other than 1"""

# Reading ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Config:
    """A config.json, or a block in a file of its own, and the block."""

    path: Path
    outer: Mapping[str, object]
    block: Mapping[str, object]

    @property
    def model_type(self) -> str:
        return str(self.outer.get("model_type"))

    def number(self, key: str, *, outside: bool = False) -> float | None:
        """Return a positive number of the block, or of the config around it; None if it is absent."""
        value = (self.outer if outside else self.block).get(key)
        if value is None:
            return None
        if not is_number(value) or not 0 < value < math.inf:
            raise UserError(
                f"{self.path}: {key} must be a positive number, got {value!r}; repair it."
            )
        return value

    def factors(self, key: str) -> list[float]:
        """Return a set of factors."""
        values = self.block.get(key)
        if not isinstance(values, list) or not all(map(is_number, values)):
            raise UserError(f"{self.path}: {key} must be a list of numbers; repair it.")
        return values


def read_config(
    path: Path, content: Mapping[str, object], stated: StatedFacts
) -> tuple[Fields, list[str]]:
    """Read one set of a config.json, or of the block of type longrope in it.

    Returns:
        the fields of RopeFactors that it states, and notes on them.

    Raises:
        UserError: if it has no such block, or an invalid value.
    """
    config = _Config(path, content, _block(path, content))
    original, notes = _original_length(config, stated)
    scale, scale_notes = _scale(config, original, stated)
    name = "short_factor" if stated.short else "long_factor"
    sets = {key: config.factors(key) for key in MSCALES}
    attention, attention_notes = _attention_scale(config, name, scale, original)
    fields = {"factors": sets[name], "original_length": original, "attention_scale": attention}
    fields |= {"num_start_tokens": stated.num_start_tokens or 0} | _rotary(config)
    if stated.short:
        fields["target_length"] = original
    else:
        fields["target_length"] = _target(config, scale, original, stated)
        left = [f"{path}: {LEFT_OUT}"]
        notes += scale_notes + left * any(value != 1 for value in sets["short_factor"])
    return {
        key: value for key, value in fields.items() if value is not None
    }, notes + attention_notes


def _block(path: Path, config: Mapping[str, object]) -> Mapping[str, object]:
    """Return the block with the factors: the file itself, or the one of a config that transformers takes."""
    candidates = (config, config.get("rope_scaling"), config.get("rope_parameters"))
    blocks = [
        block for block in candidates if isinstance(block, Mapping) and "long_factor" in block
    ]
    if not blocks:
        raise UserError(f"{path} has no block of rope_type longrope; give a config that has one.")
    kind = blocks[0].get("rope_type", blocks[0].get("type"))
    # "su" is what Phi-3's first configs called it
    if kind not in ("longrope", "su"):
        raise UserError(f"{path}: rope_type is {kind}; only longrope has a factor per pair.")
    return blocks[0]


def _original_length(config: _Config, stated: StatedFacts) -> tuple[float, list[str]]:
    """Return the original length, and a note if it is a default of transformers."""
    default = DEFAULT_ORIGINALS.get(config.model_type)
    outer, inner = config.number(ORIGINAL, outside=True), config.number(ORIGINAL)
    original = outer or default or inner or stated.original_length
    if original is None:
        raise UserError(f"{config.path} does not say its original length; give --original-length.")
    if original <= 1:
        raise UserError(f"{config.path}: {ORIGINAL} must be above 1, got {original}; repair it.")
    note = (
        f"{config.path} has no {ORIGINAL} at its top level, where transformers takes {default} for "
        f"{config.model_type}, whatever its block says; {default} is used"
    )
    return original, [note] * (outer is None and default is not None)


def _scale(config: _Config, original: float, stated: StatedFacts) -> tuple[float | None, list[str]]:
    """Return how far a config extends, and a note if its factor and its largest position differ."""
    maximum, factor = config.number(MAXIMUM, outside=True), config.number("factor")
    length = maximum or stated.target_length
    if factor is None:
        return length / original if length else None, []
    implied_length = round(factor * original)
    note = f"factor times original length, {implied_length}, is used, not {MAXIMUM} ({maximum})"
    differs = factor > 1 and maximum not in (None, implied_length)
    return factor, [f"{config.path}: {note}"] * differs


def _rotary(config: _Config) -> Fields:
    """Return base, rotated share of a head and width of the model, as far as the file states them."""
    kind = ARCHITECTURES.get(config.model_type)
    fields: Fields = {PART: kind.partial_rotary_factor if kind else None}
    fields["hidden_size"] = config.outer.get("hidden_size")
    for field, names in ROTARY_KEYS.items():
        values = [config.number(key, outside=outside) for key in names for outside in (False, True)]
        fields[field] = next((value for value in values if value is not None), fields.get(field))
    return fields


def _attention_scale(
    config: _Config, name: str, scale: float | None, original: float
) -> tuple[float | None, list[str]]:
    """Return a set's attention scale, preferably its own, and a note if the shared one differs."""
    mscale, shared = config.number(MSCALES[name]), config.number("attention_factor")
    if shared is None and scale is not None:
        shared = su_attention_scale(scale, original)
    if mscale is None or shared is None or math.isclose(mscale, shared, rel_tol=1e-6):
        return mscale or shared, []
    note = f"{MSCALES[name]}, {mscale:g}, is used, as vLLM does; transformers scales by {shared:g}"
    return mscale, [f"{config.path}: {note}"] * (config.model_type != "phimoe")


def _target(
    config: _Config, scale: float | None, original: float, stated: StatedFacts
) -> float | None:
    """Return the target length: a stated one if the config does not extend the original length."""
    if scale is None:
        return None
    if scale > 1:
        return round(scale * original)
    if stated.target_length is None or stated.target_length <= original:
        raise UserError(
            f"{config.path} tells no length above its original {original}; give --target-length, the "
            "length above it that its long_factor is for."
        )
    return stated.target_length


# Writing ------------------------------------------------------------------------------------------


def block_text(factors: RopeFactors, short: RopeFactors | None) -> tuple[str, list[str]]:
    """Return a block as JSON, and in words what it cannot hold; raises as `rope_parameters` does."""
    block = rope_parameters(factors, short)
    return json.dumps(block, indent=1) + "\n", _lost(factors, short)


def rope_parameters(factors: RopeFactors, short: RopeFactors | None) -> Fields:
    """Return the block of a config: long factors, and short ones, 1 for every pair if None.

    Raises:
        ValueError: if a block cannot hold the factors, or they lack a field that it needs.
    """
    _check(factors, short)
    pairs = len(factors.factors)
    rotary = {name: getattr(factors, name) for name in ROTARY_KEYS}
    return {
        "rope_type": "longrope",
        **{name: value for name, value in rotary.items() if value is not None},
        "short_factor": list(short.factors if short else (1.0,) * pairs),
        "long_factor": list(factors.factors),
        "factor": factors.scale,
        "attention_factor": factors.attention_scale,
        # transformers reads attention_factor alone, vLLM these alone
        "short_mscale": short.attention_scale if short else 1.0,
        "long_mscale": factors.attention_scale,
        ORIGINAL: factors.original_length,
    }


def placement(path: Path, factors: RopeFactors) -> str:
    """Return a sentence on where a written block goes."""
    return (
        f'{path} is for the config.json of the model: it becomes "rope_parameters"; beside it set '
        f'"{ORIGINAL}": {factors.original_length} (which goes before the one in the block; a Phi-3 '
        f'without it means 4096) and "{MAXIMUM}": {factors.target_length}, and remove "rope_scaling", '
        "which transformers 5 would read instead and transformers 4 reads alone."
    )


def _check(factors: RopeFactors, short: RopeFactors | None) -> None:
    """Refuse factors that a block cannot hold."""
    if factors.scale <= 1:
        raise ValueError(
            f"factors for {factors.target_length} tokens, within the original "
            f"{factors.original_length}, are no long set; give them as --short"
        )
    if factors.rope_theta is None:
        raise ValueError("a block without the rope_theta of its model means 10000; give --theta")
    if short is None:
        return
    if len(short.factors) != len(factors.factors):
        raise ValueError(f"--short has {len(short.factors)} factors, not {len(factors.factors)}")
    for name in ("original_length", *ROTARY_KEYS):
        near, far = getattr(short, name), getattr(factors, name)
        if None not in (near, far) and near != far:
            words = name.replace("_", " ")
            raise ValueError(
                f"--short is for {words} {near:g}, not {far:g}; give sets of one model"
            )


def _lost(factors: RopeFactors, short: RopeFactors | None) -> list[str]:
    sets = [factors] if short is None else [factors, short]
    starts = [str(each.num_start_tokens) for each in sets if each.num_start_tokens]
    lost = [f"start tokens ({' and '.join(starts)})"] * bool(starts)
    near, far = sets[-1].attention_scale if short else 1.0, factors.attention_scale
    if near != far:
        words = f"for transformers an attention scale of {near:g} up to the original length"
        lost.append(f"{words} (it is {far:g} at all lengths)")
    return lost + factors.origin()
