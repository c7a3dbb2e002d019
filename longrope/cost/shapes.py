"""Parameters, FLOPs and bytes of a decoder of a given shape. Pure arithmetic; see docs/cost.md.

Letters: T tokens, H hidden size, Q and K widths of all queries and of all keys, I width of the gated MLP, V
vocabulary, L layers. A multiplication with its addition is 2 FLOPs.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

BYTES = {"float32": 4, "bfloat16": 2}
"""bytes of a number by name of its dtype"""
HEAD_ROWS = 256
"""tokens whose logits are alive at once, as in `longrope.models.scoring`, which imports torch"""
OPTIMIZER_BYTES = 12
"""of a parameter besides itself: gradient and two moments of Adam, float32"""
CHECKPOINT_BYTES = 4
"""of a number that checkpointing stores: under autocast the residual stream stays float32"""

_REQUIRED = {
    *("num_hidden_layers", "hidden_size", "num_attention_heads"),
    *("intermediate_size", "vocab_size"),
}


@dataclass(frozen=True)
class Shape:
    """A Llama-like decoder: gated MLP of three matrices, no biases."""

    layers: int
    hidden: int
    head: int
    """width of one head"""
    queries: int
    """width of all query heads"""
    keys: int
    """width of all key heads, and of all value heads"""
    intermediate: int
    vocabulary: int
    tied: bool
    """whether embedding and head are one matrix"""
    model_type: str | None = None
    """architecture, as transformers names it"""

    @classmethod
    def of(cls, config: Mapping[str, object]) -> "Shape | None":
        """Return the shape that the keys of a config.json describe, None if one is absent."""
        sizes = {name: size for name, size in config.items() if isinstance(size, int)}
        if not sizes.keys() >= _REQUIRED:
            return None
        heads, model_type = sizes["num_attention_heads"], config.get("model_type")
        width = sizes.get("head_dim") or sizes["hidden_size"] // heads
        return cls(
            layers=sizes["num_hidden_layers"],
            hidden=sizes["hidden_size"],
            head=width,
            queries=heads * width,
            keys=(sizes.get("num_key_value_heads") or heads) * width,
            intermediate=sizes["intermediate_size"],
            vocabulary=sizes["vocab_size"],
            tied=bool(config.get("tie_word_embeddings", False)),
            model_type=model_type if isinstance(model_type, str) else None,
        )

    @property
    def attention(self) -> dict[str, object]:
        """Keys of config.json that limit among how many processes attention can be divided."""
        return {
            "model_type": self.model_type,
            "num_attention_heads": self.queries // self.head,
            "num_key_value_heads": self.keys // self.head,
        }

    # Parameters and FLOPs -------------------------------------------------------------------------

    @cached_property
    def layer_weights(self) -> int:
        """Weights of one layer's matrices."""
        return self.hidden * (2 * self.queries + 2 * self.keys + 3 * self.intermediate)

    @cached_property
    def parameters(self) -> int:
        """All parameters: matrices, two norms a layer, the last norm, embedding and head."""
        vocabulary = self.vocabulary * self.hidden * (1 if self.tied else 2)
        return self.layers * (self.layer_weights + 2 * self.hidden) + vocabulary + self.hidden

    def adapter_parameters(self, rank: int) -> int:
        """Return the parameters of adapters on all matrices of the layers: rank times both widths."""
        widths = 7 * self.hidden + 2 * self.queries + 2 * self.keys + 3 * self.intermediate
        return self.layers * rank * widths

    @property
    def norm_and_embedding_parameters(self) -> int:
        """Parameters of all norms and of the embedding."""
        return (2 * self.layers + 1 + self.vocabulary) * self.hidden

    def layer_flops(self, tokens: int) -> int:
        """Return the FLOPs of all layers over T tokens: 2 per weight and token, and causal attention.

        A token attends to itself and those before it: T (T + 1) / 2 pairs, 4 Q FLOPs each.
        """
        pairs = tokens * (tokens + 1) // 2
        return self.layers * (2 * self.layer_weights * tokens + 4 * self.queries * pairs)

    def forward_flops(self, tokens: int, logits: int) -> int:
        """Return the FLOPs of a forward pass with the logits of some of its tokens."""
        return self.layer_flops(tokens) + 2 * self.hidden * self.vocabulary * logits

    def training_flops(self, tokens: int, *, checkpointing: bool, frozen: bool = False) -> int:
        """Return the FLOPs of one row: the backward pass costs two forward ones.

        Checkpointing runs the layers forward once more. Where the layers' matrices are frozen, a third of
        theirs, the matrices' own gradients, is not computed.
        """
        again = self.layer_flops(tokens) if checkpointing else 0
        saved = 2 * self.layers * self.layer_weights * tokens if frozen else 0
        return 3 * self.forward_flops(tokens, tokens) + again - saved

    # Bytes ----------------------------------------------------------------------------------------

    def weight_bytes(self, dtype: str) -> int:
        """Return the bytes of the parameters."""
        return BYTES[dtype] * self.parameters

    def scoring_bytes(self, tokens: int, chunk: int, dtype: str) -> int:
        """Return the peak bytes of scoring T tokens, besides weights.

        Hidden states of all T; and either one layer's keys and values of all T with what a chunk needs
        inside a layer, or the logits of a few rows.
        """
        size = BYTES[dtype]
        cache = 2 * self.keys * size * tokens if tokens > chunk else 0
        inside = cache + self.chunk_bytes(min(chunk, tokens), dtype)
        return self.hidden * size * tokens + max(inside, self._logits_bytes(size))

    def chunk_bytes(self, chunk: int, dtype: str) -> int:
        """Return the bytes of a chunk's temporaries inside a layer: of its MLP or of its attention.

        MLP: residual, normed, and three of width I. Attention: normed, queries, outputs over the past
        and over itself; their shares and sum in float32. Beside both, cosines and sines of a head.
        """
        size = BYTES[dtype]
        mlp = (2 * self.hidden + 3 * self.intermediate) * size
        attention = (self.hidden + 3 * self.queries) * size + 3 * 4 * self.queries
        return chunk * (max(mlp, attention) + 2 * size * self.head)

    def _logits_bytes(self, size: int) -> int:
        """Return the bytes of logits, a float32 copy of others, and the log-softmax of the loss."""
        copy = 4 if size != 4 else 0
        return HEAD_ROWS * self.vocabulary * (size + copy + 4)

    def generation_bytes(self, tokens: int, dtype: str) -> int:
        """Return the bytes of an ordinary forward pass: all layers' keys and values, all logits twice."""
        size = BYTES[dtype]
        numbers = self.hidden + 2 * self.layers * self.keys + 2 * self.vocabulary
        return numbers * size * tokens + self.chunk_bytes(tokens, dtype)

    def activation_bytes(
        self, tokens: int, dtype: str, *, checkpointing: bool, logits: int | None = None
    ) -> int:
        """Return the bytes of T tokens of a micro-batch when their backward pass begins.

        The logits count three times, in float32: log-softmax, its gradient and theirs. `logits` is the
        number of tokens whose logits exist at once, None for all.
        """
        layer = self._saved_by_layer(dtype) * tokens
        stored = self.checkpoint_bytes(tokens) + layer if checkpointing else self.layers * layer
        at_once = tokens if logits is None else min(tokens, logits)
        return stored + at_once * 3 * 4 * self.vocabulary

    def checkpoint_bytes(self, tokens: int) -> int:
        """Return the bytes that checkpointing stores of T tokens: the input of every layer."""
        return tokens * self.layers * self.hidden * CHECKPOINT_BYTES

    def _saved_by_layer(self, dtype: str) -> int:
        """Return the bytes that autograd stores of a token in one layer.

        Each of two norms: its input, the normed input and the result. Attention: queries, keys, values
        and output. The MLP: gate, its activation, up, and their product.
        """
        size = BYTES[dtype]
        norms = 2 * self.hidden * (4 + 4 + size)
        inside = 2 * self.queries + 2 * self.keys + 4 * self.intermediate
        return norms + inside * size
