"""The factor search, its study and the readjustment."""

from typing import Annotated, Literal

from pydantic import Field

from longrope.settings.common import Fraction, Settings, SplitRef, Tokens


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
    num_held_out: int = Field(20, gt=0, description="held-out documents")
