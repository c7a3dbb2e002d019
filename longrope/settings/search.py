"""The factor search, its study and the readjustment."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from longrope.settings.common import Fraction, Settings, SplitRef, Tokens


class CmaSettings(Settings):
    """CMA-ES on knots and few documents; docs/search.md has the evidence for the defaults."""

    num_knots: int = Field(8, gt=1, description="variables that bend the curve of log factors")
    generation_size: int = Field(8, gt=3, description="individuals per generation")
    num_generations: int = Field(6, gt=0, description="generations before the selection")
    batch_documents: int = Field(1, gt=0, description="documents each generation is scored on")
    step: float = Field(0.5, gt=0, description="first standard deviation of a knot's log factor")


class AutoSettings(Settings):
    """CMA-ES on a ramp of three variables, then on knots; docs/search.md has the evidence."""

    start_documents: int = Field(
        3, gt=0, description="documents the closed forms and the first ramps are compared on"
    )
    ramp_generation_size: int = Field(4, gt=3, description="ramps per generation")
    ramp_num_generations: int = Field(4, gt=0, description="generations of ramps")
    ramp_step: float = Field(
        1.0,
        gt=0,
        description="first standard deviation: 1 is half a ln(turns) of the middle, a factor 2 of the "
        "width and 28 % of the height",
    )
    num_knots: int = Field(8, gt=1, description="variables that bend the ramp found")
    knot_generation_size: int = Field(4, gt=3, description="bent ramps per generation")
    knot_num_generations: int = Field(2, ge=0, description="generations of bent ramps; 0: none")
    knot_step: float = Field(
        0.3, gt=0, description="first standard deviation of a knot's log factor"
    )
    batch_documents: int = Field(1, gt=0, description="documents each generation is scored on")
    start_token_choices: int = Field(
        4,
        gt=0,
        description="numbers of start tokens tried, spread over start_tokens; the first is one",
    )


class GradientSettings(Settings):
    """Descent along the gradient by a ramp's variables; a step costs as much as 4 scored documents."""

    start_documents: int = Field(
        3, gt=0, description="documents the closed forms and the first ramps are compared on"
    )
    num_steps: int = Field(5, gt=0, description="steps before the selection")
    batch_documents: int = Field(1, gt=0, description="documents of each step's gradient")
    step: float = Field(
        0.2, gt=0, description="first step of a variable; auto.ramp_step has the units"
    )
    start_token_choices: int = Field(
        4,
        gt=0,
        description="numbers of start tokens tried, spread over start_tokens; the first is one",
    )


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
        return self


TAKE_A_START = ("evolution", "cma")
"""algorithms that begin at seeds, whatever these are"""


class SearchSettings(Settings):
    """The factor search; bounds and budgets of the evolution are those of Ding et al. 2024, table 4."""

    algorithm: Literal["auto", "evolution", "evolution-public", "cma", "gradient"] = Field(
        "auto",
        description="auto: CMA-ES on a ramp, then on knots, what docs/search.md finds best; evolution: as "
        "published; evolution-public: as the authors' code; cma: CMA-ES on knots; gradient: descent on "
        "a ramp",
    )
    start: Literal["auto", "cma", "gradient"] | None = Field(
        None,
        description="algorithm that runs first; what it finds joins the seeds of evolution or cma",
    )
    auto: AutoSettings = Field(
        AutoSettings.model_validate({}), description="settings of the algorithm `auto`"
    )
    cma: CmaSettings = Field(
        CmaSettings.model_validate({}), description="settings of the algorithm `cma`"
    )
    gradient: GradientSettings = Field(
        GradientSettings.model_validate({}), description="settings of the algorithm `gradient`"
    )
    racing_error: float | None = Field(
        None,
        gt=0,
        lt=0.5,
        description="score document by document, foresee the losses on the others, and stop where it is "
        "known, but for this probability, whether a candidate is kept; null: every candidate on all its "
        "documents",
    )
    documents: SplitRef = Field(description="validation documents the search scores on")
    objective: Literal["perplexity", "needle"] = Field(
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
    population_size: int = Field(64, gt=2, description="P: individuals of the first generation")
    num_mutations: int = Field(16, ge=0, description="N1: mutated individuals per iteration")
    num_crossovers: int = Field(16, ge=0, description="N2: crossed individuals per iteration")
    num_parents: int = Field(32, gt=0, description="k: best individuals kept as parents")
    mutation_probability: Fraction = Field(
        0.3, description="p: chance that a coordinate is redrawn"
    )
    num_iterations: int = Field(40, ge=0, description="T: iterations after the first generation")
    max_factor_ratio: float = Field(
        1.25,
        ge=1,
        description="upper bound of a factor over the scale; unless given, 2 with a critical dimension",
    )
    critical_dimension: Literal["theory", "search"] | Annotated[int, Field(ge=0)] | None = Field(
        None,
        description="first rotary pair that is searched, then not below the scale; pairs before it "
        "follow NTK. theory: the first that pretraining shows at most one turn; search: chosen too",
    )
    attention_scales: AttentionScales | None = Field(
        None, description="attention scales to search; null: the top-level attention_scale"
    )
    grid: float = Field(0.01, gt=0, description="step of a factor")
    start_tokens: list[Annotated[int, Field(ge=0)]] = Field(
        [0, 1, 2, 4, 8, 12, 16, 20, 24, 28, 32, 64, 128, 256],
        description="candidates for the number of start tokens left unscaled",
    )
    halve_above: Tokens | None = Field(
        512 * 1024, description="target length above which population, N1 and N2 are halved"
    )

    @model_validator(mode="before")
    @classmethod
    def _bound(cls, raw: Any) -> Any:
        """Raise the default upper bound with a critical dimension, as in LongRoPE2, algorithm 2."""
        if isinstance(raw, dict) and raw.get("critical_dimension") is not None:
            return {"max_factor_ratio": 2.0, **raw}
        return raw

    @model_validator(mode="after")
    def _can_be_searched(self) -> Self:
        if self.start and (self.algorithm not in TAKE_A_START or self.start == self.algorithm):
            raise ValueError(
                f"start {self.start} cannot come before algorithm {self.algorithm}; give it with "
                "evolution or cma, or leave it out"
            )
        public = self.algorithm == "evolution-public"
        self._refuse("attention_scales", public and self.attention_scales is not None)
        self._refuse("critical_dimension", public and self.critical_dimension is not None)
        if self.algorithm != "evolution":
            self._refuse("critical_dimension", self.critical_dimension == "search")
        return self

    def _refuse(self, key: str, given: bool) -> None:
        if given:
            value = getattr(self, key)
            shown = "" if isinstance(value, Settings) else f" {value}"
            raise ValueError(
                f"algorithm {self.algorithm} cannot search under {key}{shown}; use evolution"
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


class StudySettings(Settings):
    """Search algorithms compared over seeds and lengths on the base model."""

    algorithms: dict[str, SearchSettings] = Field(description="name in the table -> search")
    lengths: list[Tokens] = Field(description="target lengths")
    seeds: list[Annotated[int, Field(ge=0)]] = Field(description="one search for each")
    held_out: SplitRef = Field(description="documents no search sees, scored once with its result")
    num_held_out: int = Field(
        20,
        gt=0,
        description="held-out documents; where fewer are long enough, as in `num_documents`",
    )
