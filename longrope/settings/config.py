"""A whole experiment; `longrope.settings.sense` has the constraints between its sections."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator

from longrope.settings.common import (
    CHUNK_LENGTH,
    NAME,
    UNIQUE,
    AttentionScale,
    Name,
    Seed,
    Settings,
    SplitRef,
    Tokens,
)
from longrope.settings.search import ReadjustSettings, SearchSettings, StudySettings
from longrope.settings.sources import CorpusSettings, ModelSettings
from longrope.settings.tasks import EvaluateSettings
from longrope.settings.training import FinetuneSettings


class ExtensionStep(Settings):
    """One step of the progressive extension."""

    target_length: Tokens = Field(description="context window after this step")
    search: SearchSettings | None = Field(None, description="replaces the common search settings")
    finetune: FinetuneSettings | None = Field(
        None,
        description="train under the factors; a step without it searches on the model tuned so far "
        "and composes the factors found with those it was tuned under",
    )


class Config(Settings):
    """A whole experiment."""

    experiment: Name = Field(
        description="name of tables and figures", json_schema_extra={"pattern": f"^{NAME}$"}
    )
    seed: Seed = Field(0, description="seed of every random choice")
    seeds: Annotated[list[Seed], UNIQUE] | None = Field(
        None,
        min_length=1,
        description="several seeds, instead of seed: all that draws is computed for each, and tables "
        "show the mean with the lowest and the highest",
    )
    dtype: Literal["float32", "bfloat16"] = Field("bfloat16", description="precision of scoring")
    attention_scale: AttentionScale = Field(
        "su", description="attention scale under searched factors: a rule by name, or a number"
    )
    chunk_length: Tokens = Field(
        CHUNK_LENGTH, description="tokens scored at once; memory, not results"
    )
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
    results: str = Field(
        "results",
        description="folder of all results, from where commands run; in no digest, so it may be moved",
    )
    identity_versions: list[str] = Field(
        [], description="packages whose installed version is part of every node's identity"
    )
    model: ModelSettings = Field(description="the pretrained base model")
    corpora: dict[Name, CorpusSettings] = Field(description="name -> where its documents come from")
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
    evaluate: EvaluateSettings = Field(EvaluateSettings(), description="what is measured")

    @field_validator("results")
    @classmethod
    def _usable_folder(cls, name: str) -> str:
        folder = Path(name)
        if folder.name in ("", "..") or name.startswith("~") or set("{}*?\n") & set(name):
            raise ValueError(
                "give the path of a folder below which results go, without braces, '*', '?' and an opening "
                f"'~', got {name!r}"
            )
        return str(folder)

    @property
    def all_seeds(self) -> list[int]:
        """Seeds of the experiment."""
        return self.seeds or [self.seed]

    def split_refs(self) -> Iterator[tuple[str, SplitRef]]:
        """Yield every reference to a split with the key that holds it."""
        for key, search in self.searches():
            yield f"{key}.documents", search.documents
        for key, finetune, _ in self.finetunings():
            yield f"{key}.documents", finetune.documents
            if finetune.mixed_window and finetune.mixed_window.documents:
                yield f"{key}.mixed_window.documents", finetune.mixed_window.documents
            if finetune.watch:
                yield f"{key}.watch.documents", finetune.watch.documents
        if self.search_study:
            yield "search_study.held_out", self.search_study.held_out
        for task in self.evaluate.tasks:
            for role, ref in task.documents.items():
                yield f"evaluate.{task.name}.corpora.{role.removeprefix('tokens-')}", ref

    def searches(self) -> Iterator[tuple[str, SearchSettings]]:
        """Yield the settings of every search with the key that holds them."""
        yield "search", self.search
        for index, step in enumerate(self.extension):
            if step.search:
                yield f"extension.{index}.search", step.search
        if self.readjust and self.readjust.search:
            yield "readjust.search", self.readjust.search
        if self.search_study:
            for name, search in self.search_study.algorithms.items():
                yield f"search_study.algorithms.{name}", search

    def finetunings(self) -> Iterator[tuple[str, FinetuneSettings, int]]:
        """Yield the settings of every fine-tuning with the key that holds them, and its target length."""
        for index, step in enumerate(self.extension):
            if step.finetune:
                yield f"extension.{index}.finetune", step.finetune, step.target_length
