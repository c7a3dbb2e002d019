"""Supported architectures: every way in which one differs from the others, in one table.

To support another, check that it embeds, normalises and projects its hidden states as the others do (no
multipliers around them, see `longrope.models.scoring`) and that all its layers share one `rotary_emb`; then
add its row to ARCHITECTURES.
"""

from dataclasses import dataclass
from typing import Literal

Width = Literal["hidden", "inner", "queries", "keys"]
"""residual stream, MLP, all query heads together, all key heads together"""


GgufFactors = Literal["written", "dropped", "impossible"]
"""whether the public converter to GGUF writes factors, and else, whether llama.cpp could run them"""


@dataclass(frozen=True)
class Matrix:
    """A matrix of a decoder layer."""

    name: str
    rows: tuple[Width, ...]
    """their widths are added"""
    columns: Width
    bias: bool = False
    bias_key: str = ""
    """key of config.json that says whether it has a bias, `bias` being the default"""


@dataclass(frozen=True)
class Window:
    """A sliding window that layers may attend within, as `sliding_window` of config.json gives it."""

    default: int | None
    """tokens, where config.json has no such key"""
    by_layer: bool = False
    """whether it needs `use_sliding_window`, and only some layers have it"""


def _separate(
    *, qkv_bias: bool = False, bias_key: str = "", mlp_key: str = ""
) -> tuple[Matrix, ...]:
    """Return the layer of Llama: one matrix for each projection, and a gated MLP."""
    widths: tuple[tuple[str, Width], ...] = (("q", "queries"), ("k", "keys"), ("v", "keys"))
    return (
        *(Matrix(f"self_attn.{n}_proj", (w,), "hidden", qkv_bias, bias_key) for n, w in widths),
        Matrix("self_attn.o_proj", ("hidden",), "queries", bias_key=bias_key),
        Matrix("mlp.gate_proj", ("inner",), "hidden", bias_key=mlp_key),
        Matrix("mlp.up_proj", ("inner",), "hidden", bias_key=mlp_key),
        Matrix("mlp.down_proj", ("hidden",), "inner", bias_key=mlp_key),
    )


FUSED = (
    Matrix("self_attn.qkv_proj", ("queries", "keys", "keys"), "hidden"),
    Matrix("self_attn.o_proj", ("hidden",), "queries"),
    Matrix("mlp.gate_up_proj", ("inner", "inner"), "hidden"),
    Matrix("mlp.down_proj", ("hidden",), "inner"),
)
"""the layer of Phi-3"""
UNGATED = (
    Matrix("attention.query_key_value", ("hidden",) * 3, "hidden", True, "attention_bias"),
    Matrix("attention.dense", ("hidden",), "hidden", True, "attention_bias"),
    Matrix("mlp.dense_h_to_4h", ("inner",), "hidden", True),
    Matrix("mlp.dense_4h_to_h", ("hidden",), "inner", True),
)
"""the layer of GPT-NeoX"""


@dataclass(frozen=True)
class Architecture:
    """What sets an architecture apart; the defaults are those of most."""

    matrices: tuple[Matrix, ...]
    """of a decoder layer"""
    prefix: str = "model."
    """what the names of all tensors but the head begin with"""
    embedding: str = "embed_tokens"
    final_norm: str = "norm"
    """norm behind the last layer"""
    norm_bias: bool = False
    head_norms: tuple[str, ...] = ()
    """norms over the width of a head"""
    old_head: str = "lm_head.weight"
    """name of the head in files, where transformers renames it"""
    head_dim_derived: bool = True
    """whether a head is as wide as hidden size / heads, where config.json does not tell"""
    key_heads_derived: bool = False
    """whether there is a key head per query head, where config.json does not tell"""
    grouped: bool = True
    """whether its configuration has num_key_value_heads, which DeepSpeed asks for to share a row"""
    cache_keyword: str = "past_key_values"
    """argument by which a layer takes a cache"""
    partial_rotary_factor: float | None = None
    """share of a head that is rotated, where config.json does not tell; None for all of it"""
    window: Window | None = None
    rotary_keys: tuple[str, str] = ("rope_theta", "partial_rotary_factor")
    """base and rotated share at the top level of config.json, where transformers 4 reads them"""
    only_formula_scale: bool = False
    """whether transformers 4 refuses a `longrope` block that states its attention scale"""
    renews_cache: bool = False
    """whether `generate` of transformers computes its cache anew where the short set ends"""
    gguf_factors: GgufFactors = "dropped"


ARCHITECTURES = {
    "gpt_neox": Architecture(
        UNGATED,
        prefix="gpt_neox.",
        embedding="embed_in",
        final_norm="final_layer_norm",
        norm_bias=True,
        old_head="embed_out.weight",
        grouped=False,
        cache_keyword="layer_past",
        partial_rotary_factor=0.25,
        rotary_keys=("rotary_emb_base", "rotary_pct"),
        gguf_factors="impossible",
    ),
    "llama": Architecture(
        _separate(bias_key="attention_bias", mlp_key="mlp_bias"), key_heads_derived=True
    ),
    "mistral": Architecture(_separate(), window=Window(4096)),
    "phi3": Architecture(
        FUSED,
        key_heads_derived=True,
        window=Window(None),
        only_formula_scale=True,
        renews_cache=True,
        gguf_factors="written",
    ),
    "qwen2": Architecture(_separate(qkv_bias=True), window=Window(4096, by_layer=True)),
    "qwen3": Architecture(
        _separate(bias_key="attention_bias"),
        head_norms=("self_attn.q_norm", "self_attn.k_norm"),
        head_dim_derived=False,
        gguf_factors="impossible",
        window=Window(4096, by_layer=True),
    ),
}
"""transformers' `model_type` -> the architecture"""
