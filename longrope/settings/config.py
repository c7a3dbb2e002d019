"""A whole experiment, and the constraints between its sections."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from longrope.settings.common import CHUNK_LENGTH, AttentionScale, Settings, SplitRef, Tokens
from longrope.settings.search import ReadjustSettings, SearchSettings, StudySettings
from longrope.settings.sources import CorpusSettings, ModelSettings
from longrope.settings.tasks import EvaluateSettings
from longrope.settings.training import FinetuneSettings

CORPUS_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
"""names of corpora are parts of the names of folders and rules"""


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

    experiment: str = Field(
        pattern="^[a-z0-9][a-z0-9-]*$", description="name of tables and figures"
    )
    seed: int = Field(0, ge=0, description="seed of every random choice")
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

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if bool(self.extension) == bool(self.search_study):
            raise ValueError("give exactly one of extension and search_study")
        self._check_corpora()
        self._check_lengths()
        return self

    def _check_corpora(self) -> None:
        for name in self.corpora:
            if not CORPUS_NAME.fullmatch(name):
                raise ValueError(
                    f"corpora: names have letters, digits, '.', '_' and '-', a letter or digit first; "
                    f"got {name!r}"
                )
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
                mixed = step.finetune.mixed_window
                if mixed and mixed.documents:
                    yield f"extension.{index}.finetune.mixed_window.documents", mixed.documents
                if watch := step.finetune.watch:
                    yield f"extension.{index}.finetune.watch.documents", watch.documents
        if self.search_study:
            yield "search_study.held_out", self.search_study.held_out
            for name, search in self.search_study.algorithms.items():
                yield f"search_study.algorithms.{name}.documents", search.documents
        if self.readjust and self.readjust.search:
            yield "readjust.search.documents", self.readjust.search.documents
        for task in self.evaluate.tasks:
            for role, ref in task.documents.items():
                yield f"evaluate.{task.name}.corpora.{role.removeprefix('tokens-')}", ref

    def _check_lengths(self) -> None:
        previous, holder = self.model.original_length, "model.original_length"
        shortest = min(self.evaluate.untuned_lengths, default=None)
        if shortest is not None and shortest <= previous:
            raise ValueError(
                f"evaluate.untuned_lengths must exceed {holder} ({previous}), got {shortest}"
            )
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
