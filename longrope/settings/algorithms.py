"""Settings of the search algorithms, with the module and the number of scorings of each.

To add one, write its settings here with a `name`, add them to `Algorithm`, and write the module
`longrope.search.algorithms.{module}` with `make(problem, settings, num_documents, seed)`.
"""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from longrope.settings.common import NOT_IN_DIGEST, Fraction, Settings, Tokens

CLOSED_FORMS = 3
"""seeds of every search but that of the public code"""
FIRST_RAMPS = 3
"""ramps that a search over ramps starts from: `longrope.search.algorithms.curves.RAMPS`"""
SELECTED = 4
"""most individuals of a final selection"""
GRADIENT_COST = 4
"""scored documents that a gradient counts as: forward, forward again in every layer, and a backward
pass of twice a forward one; measured 3.4 on the embedded model"""


class AlgorithmSettings(Settings):
    """Base of the settings of a search algorithm."""

    module: ClassVar[str]
    """module of `longrope.search.algorithms` that makes it"""

    def max_scorings(self, num_documents: int, num_start_tokens: int) -> int:
        """Return an upper bound on the number of scored documents; a gradient counts as 4.

        Args:
            num_documents: documents of the search.
            num_start_tokens: numbers of start tokens to choose from.
        """
        raise NotImplementedError

    def at(self, target_length: int) -> "AlgorithmSettings":
        """Return the settings that hold at a target length."""
        del target_length
        return self


class EvolutionSettings(AlgorithmSettings):
    """Evolution as published; budget and operators of Ding et al. 2024, table 4."""

    module = "evolution"
    name: Literal["evolution"] = Field("evolution", description="this algorithm")
    population_size: int = Field(64, gt=2, description="P: individuals of the first generation")
    num_mutations: int = Field(16, ge=0, description="N1: mutated individuals per iteration")
    num_crossovers: int = Field(16, ge=0, description="N2: crossed individuals per iteration")
    num_parents: int = Field(32, gt=0, description="k: best individuals kept as parents")
    mutation_probability: Fraction = Field(
        0.3, description="p: chance that a coordinate is redrawn"
    )
    num_iterations: int = Field(40, ge=0, description="T: iterations after the first generation")
    halve_above: Annotated[Tokens | None, NOT_IN_DIGEST] = Field(
        512 * 1024, description="target length above which population, N1 and N2 are halved"
    )

    def max_scorings(self, num_documents: int, num_start_tokens: int) -> int:
        """Return the individuals of all generations, each on all documents."""
        del num_start_tokens
        children = self.num_mutations + self.num_crossovers
        return num_documents * (self.population_size + self.num_iterations * children)

    def at(self, target_length: int) -> "EvolutionSettings":
        """Return the settings with the counts that hold at a target length."""
        if self.halve_above is None or target_length <= self.halve_above:
            return self
        counts = ("population_size", "num_mutations", "num_crossovers")
        return self.model_copy(update={name: getattr(self, name) // 2 for name in counts})


class PublicEvolutionSettings(EvolutionSettings):
    """Evolution as in the authors' public code: its own seed, bound and operators."""

    module = "public"
    name: Literal["evolution-public"] = Field("evolution-public", description="this algorithm")  # type: ignore[assignment]


class CmaSettings(AlgorithmSettings):
    """CMA-ES on knots and few documents; docs/search.md has the evidence for the defaults."""

    module = "cma"
    name: Literal["cma"] = Field("cma", description="this algorithm")
    num_knots: int = Field(8, gt=1, description="variables that bend the curve of log factors")
    generation_size: int = Field(8, gt=3, description="individuals per generation")
    num_generations: int = Field(6, gt=0, description="generations before the selection")
    batch_documents: int = Field(1, gt=0, description="documents each generation is scored on")
    step: float = Field(0.5, gt=0, description="first standard deviation of a knot's log factor")

    def max_scorings(self, num_documents: int, num_start_tokens: int) -> int:
        """Return closed forms, all generations, start tokens and the selection."""
        moves = self.num_generations * self.generation_size
        tried = CLOSED_FORMS + moves + _choices(num_start_tokens)
        return min(self.batch_documents, num_documents) * tried + SELECTED * num_documents


class RampSettings(AlgorithmSettings):
    """Base class: algorithms that start from the best of some preset ramps."""

    start_documents: int = Field(
        3, gt=0, description="documents the closed forms and the first ramps are compared on"
    )
    batch_documents: int = Field(1, gt=0, description="documents each move is scored on")
    start_token_choices: int = Field(
        4,
        gt=0,
        description="numbers of start tokens tried, spread over start_tokens; the first is one",
    )

    @property
    def moves(self) -> int:
        """Individuals scored in the moves away from the first ramp."""
        raise NotImplementedError

    def max_scorings(self, num_documents: int, num_start_tokens: int) -> int:
        """Return closed forms and ramps, moves, start tokens and the selection."""
        first = min(self.start_documents, num_documents) * (CLOSED_FORMS + FIRST_RAMPS)
        tried = self.moves + _choices(min(num_start_tokens, self.start_token_choices))
        few = min(self.batch_documents, num_documents)
        return first + few * tried + SELECTED * num_documents


class AutoSettings(RampSettings):
    """CMA-ES on a ramp of three variables, then on knots; docs/search.md has the evidence."""

    module = "auto"
    name: Literal["auto"] = Field("auto", description="this algorithm")
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

    @property
    def moves(self) -> int:
        """Individuals of all generations."""
        ramps = self.ramp_num_generations * self.ramp_generation_size
        return ramps + self.knot_num_generations * self.knot_generation_size


class GradientSettings(RampSettings):
    """Descent along the gradient by a ramp's variables; a step costs as much as 4 scored documents."""

    module = "gradient"
    name: Literal["gradient"] = Field("gradient", description="this algorithm")
    num_steps: int = Field(5, gt=0, description="steps before the selection")
    step: float = Field(
        0.2, gt=0, description="first step of a variable; auto's ramp_step has the units"
    )

    @property
    def moves(self) -> int:
        """Individuals that the steps count as."""
        return GRADIENT_COST * self.num_steps


def _choices(num_start_tokens: int) -> int:
    """Return how many individuals choose among numbers of start tokens; one number needs none."""
    return num_start_tokens if num_start_tokens > 1 else 0


Algorithm = Annotated[
    AutoSettings | EvolutionSettings | PublicEvolutionSettings | CmaSettings | GradientSettings,
    Field(discriminator="name"),
]
