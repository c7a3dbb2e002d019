"""The factor search, its study and the readjustment."""

from collections.abc import Mapping
from typing import Annotated, Literal, Self, get_args

from pydantic import Field, model_validator

from longrope.settings.algorithms import (
    Algorithm,
    AlgorithmSettings,
    AutoSettings,
    EvolutionSettings,
    PublicEvolutionSettings,
)
from longrope.settings.common import UNIQUE, UNLESS_DEFAULT, Lengths, Name, Seed, Settings, SplitRef

MOST_STEPS = 1_000_000
"""attention scales that a search chooses among at most"""


class AttentionScales(Settings):
    """Attention scales that a search may take; seeds have that of the top-level rule."""

    low: float = Field(gt=0, description="smallest attention scale")
    high: float = Field(gt=0, description="largest attention scale")
    step: float = Field(1e-4, gt=0, description="step of the attention scale")

    @model_validator(mode="after")
    def _rising(self) -> Self:
        if self.high < self.low + self.step:
            raise ValueError(
                f"high must be at least low + step ({self.low + self.step:g}), got {self.high:g}"
            )
        if self.high - self.low > MOST_STEPS * self.step:
            raise ValueError(
                f"step must be at least {(self.high - self.low) / MOST_STEPS:g}, a millionth of high - low, "
                f"got {self.step:g}"
            )
        return self


class SearchMethod(Settings):
    """Method of a factor search, without its documents."""

    algorithm: Algorithm = Field(
        AutoSettings(),
        description="name of the algorithm, or a mapping of its `name` and its settings. auto: CMA-ES on a "
        "ramp, then on knots, what docs/search.md finds best; evolution: as published; evolution-public: as "
        "the authors' code; cma: CMA-ES on knots; gradient: descent on a ramp",
    )
    objective: Annotated[Literal["perplexity", "needle"], UNLESS_DEFAULT] = Field(
        "perplexity",
        description="loss of all tokens of the documents, or, as in LongRoPE2, of the answers to keys "
        "planted in them",
    )
    num_documents: int = Field(
        5,
        gt=0,
        description="documents each candidate is scored on, one stretch of each; fewer long enough give "
        "several stretches without overlap, and if need be fewer texts; factors.json says how many of both",
    )
    max_factor_ratio: float = Field(
        1.25,
        ge=1,
        le=1000,
        description="upper bound of a factor over the scale; unless given, 2 with a critical dimension",
    )
    critical_dimension: Annotated[
        Literal["theory", "search"] | Annotated[int, Field(ge=0)] | None, UNLESS_DEFAULT
    ] = Field(
        None,
        description="first rotary pair that is searched, then not below the scale; pairs before it "
        "follow NTK. theory: the first that pretraining shows at most one turn; search: chosen too",
    )
    attention_scales: Annotated[AttentionScales | None, UNLESS_DEFAULT] = Field(
        None, description="attention scales to search; null: the top-level attention_scale"
    )
    grid: float = Field(0.01, ge=1e-6, description="step of a factor")
    start_tokens: Annotated[list[Annotated[int, Field(ge=0)]], UNIQUE] = Field(
        [0, 1, 2, 4, 8, 12, 16, 20, 24, 28, 32, 64, 128, 256],
        min_length=1,
        description="candidates for the number of start tokens left unscaled",
    )

    @model_validator(mode="before")
    @classmethod
    def _spelled_out(cls, raw: object) -> object:
        """Read an algorithm's plain name, and the default upper bound with a critical dimension.

        The bound is that of LongRoPE2, algorithm 2.
        """
        if not isinstance(raw, dict):
            return raw
        raw = with_algorithm(raw)
        return raw if raw.get("critical_dimension") is None else {"max_factor_ratio": 2.0, **raw}

    @model_validator(mode="after")
    def _can_be_searched(self) -> Self:
        public = isinstance(self.algorithm, PublicEvolutionSettings)
        self._refuse("attention_scales", public and self.attention_scales is not None)
        self._refuse("critical_dimension", public and self.critical_dimension is not None)
        if self.algorithm.name != "evolution":
            self._refuse("critical_dimension", self.critical_dimension == "search")
        return self

    def _refuse(self, key: str, given: bool) -> None:
        if given:
            value = getattr(self, key)
            shown = "" if isinstance(value, Settings) else f" {value}"
            raise ValueError(
                f"algorithm {self.algorithm.name} cannot search under {key}{shown}; use evolution"
            )

    def max_scorings(self) -> int:
        """Return an upper bound on the number of documents that a search scores."""
        return self.algorithm.max_scorings(self.num_documents, len(self.start_tokens))


def with_algorithm(raw: Mapping[str, object]) -> dict[str, object]:
    """Return search settings with the algorithm as a mapping.

    Settings of the chosen algorithm that stand next to it, or under its name, as in older configurations,
    move into it; those of others are refused.

    Raises:
        ValueError: saying what to write.
    """
    value = raw.get("algorithm", "auto")
    algorithm = {"name": value} if isinstance(value, str) else value
    members = {member.model_fields["name"].default: member for member in _ALGORITHMS}
    # whatever is no name, such as a list, is left to be refused
    if not isinstance(algorithm, Mapping) or str(algorithm.get("name")) not in members:
        return {**raw, "algorithm": algorithm}
    name = algorithm["name"]
    fields = members[name].model_fields.keys() - {"name"}
    moved = {key: value for key, value in raw.items() if key in _MOVED}
    beneath = raw.get(name) or {}
    if not isinstance(beneath, Mapping):
        raise ValueError(f"{name} must be a mapping of its settings, got {beneath!r}")
    inside = dict(beneath) | {k: v for k, v in moved.items() if k in fields}
    others = {*(moved.keys() - fields), *(key for key in members if key in raw and key != name)}
    if others:
        raise ValueError(
            f"{', '.join(sorted(others))} is not read by algorithm {name}; write the settings of an "
            f"algorithm with its name, as algorithm: {{name: {name}, ...}}, and leave the others out"
        )
    rest = {key: value for key, value in raw.items() if key not in {*moved, name}}
    return rest | {"algorithm": {**inside, **algorithm}}


_ALGORITHMS: tuple[type[AlgorithmSettings], ...] = get_args(get_args(Algorithm)[0])
MODULES = sorted({member.module for member in _ALGORITHMS})
"""modules of `longrope.search.algorithms` that settings can name"""
_MOVED = EvolutionSettings.model_fields.keys() - {"name"}


class SearchSettings(SearchMethod):
    """The factor search."""

    documents: SplitRef = Field(description="validation documents the search scores on")


class ReadjustSettings(Settings):
    """Short-length factors of the extended model (paper, section 3.3)."""

    lengths: Lengths = Field(description="lengths that get their own factors")
    num_attention_scales: int = Field(
        1,
        gt=0,
        description="attention scales tried, from the tuned one evenly down to 1; 1 keeps it",
    )
    search: SearchSettings | None = Field(None, description="replaces the common search settings")


class StudySettings(Settings):
    """Search algorithms compared over seeds and lengths on the base model."""

    algorithms: dict[Name, SearchSettings] = Field(
        min_length=1, description="name in the table -> search"
    )
    lengths: Lengths = Field(description="target lengths")
    seeds: Annotated[list[Seed], UNIQUE] = Field(min_length=1, description="one search for each")
    held_out: SplitRef = Field(description="documents no search sees, scored once with its result")
    num_held_out: int = Field(
        20,
        gt=0,
        description="held-out documents; where fewer are long enough, as in `num_documents`",
    )
