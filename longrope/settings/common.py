"""Base of all settings: types with units, marks for digests, refusal of unknown keys."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, WithJsonSchema
from pydantic.fields import FieldInfo

from longrope.rope.methods import METHODS

Value = TypeVar("Value")

NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
"""names are parts of the names of folders, files and rules"""


def _checked_name(name: str) -> str:
    if not re.fullmatch(NAME, name):
        raise ValueError(
            "names have letters, digits, '.', '_' and '-', a letter or digit first, and at most 64 of them; "
            f"got {name!r}"
        )
    return name


def _not_blank(text: str) -> str:
    if not text.strip():
        raise ValueError(f"should name files or a folder, got {text!r}")
    return text


def _rising(lengths: list[int]) -> list[int]:
    if any(after <= before for before, after in pairwise(lengths)):
        raise ValueError(f"lengths must rise, each above the one before it; got {lengths}")
    return lengths


def _unique(values: list[Value]) -> list[Value]:
    twice = next((value for value in values if values.count(value) > 1), None)
    if twice is not None:
        raise ValueError(f"{twice} stands in it twice; leave one of them out")
    return values


Name = Annotated[str, AfterValidator(_checked_name)]
Place = Annotated[str, AfterValidator(_not_blank)]
"""path or pattern"""
Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]
RISING = AfterValidator(_rising)
UNIQUE = AfterValidator(_unique)
Tokens = Annotated[int, Field(gt=0, json_schema_extra={"unit": "tokens"})]
WindowLength = Annotated[int, Field(ge=2, json_schema_extra={"unit": "tokens"})]
Count = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Revision = Annotated[str, Field(pattern="^[0-9a-f]{40}$")]
Dtype = Literal["float32", "bfloat16"]
Lengths = Annotated[list[Tokens], Field(min_length=1), RISING]
CHUNK_LENGTH = 4096
"""default number of tokens scored at once"""
AttentionScale = Literal["yarn", "su"] | Annotated[float, Field(gt=0)]


def _known_method(name: str) -> str:
    if name not in METHOD_NAMES:
        raise ValueError(f"method {name!r} is not known; choose among {', '.join(METHOD_NAMES)}")
    return name


METHOD_NAMES = (*METHODS, "longrope")
Method = Annotated[
    str, AfterValidator(_known_method), WithJsonSchema({"type": "string", "enum": [*METHOD_NAMES]})
]


@dataclass(frozen=True)
class InDigest:
    """Mark of a field in `Annotated`: when it counts in the digest of a node. Fields without it always do."""

    when: Literal["never", "unless default"]


NOT_IN_DIGEST = InDigest("never")
"""changes no result, or is hashed otherwise, as an input is"""
UNLESS_DEFAULT = InDigest("unless default")
"""added after results existed: its default must reproduce them"""


S = TypeVar("S", bound="Settings")


class Settings(BaseModel):
    """Base of all settings: unknown keys and numbers that are not finite are refused, values are frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    def as_base(self, base: type[S], **changes: object) -> S:
        """Return the values of a base class of these settings, with changes."""
        return base(**{name: getattr(self, name) for name in base.model_fields} | changes)

    def identity(self) -> dict[str, object]:
        """Return the fields that count in a digest, as JSON; `model_validate` of it gives equal results."""
        return {
            name: _identity(getattr(self, name))
            for name, field in type(self).model_fields.items()
            if _counts(field, getattr(self, name))
        }


def _counts(field: FieldInfo, value: object) -> bool:
    marks = {mark.when for mark in field.metadata if isinstance(mark, InDigest)}
    if "unless default" in marks:
        return bool(value != field.get_default(call_default_factory=True))
    return "never" not in marks


def _identity(value: object) -> object:
    if isinstance(value, Settings):
        return value.identity()
    if isinstance(value, Mapping):
        return {key: _identity(inner) for key, inner in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_identity(inner) for inner in value]
    return value


class HubFiles(Settings):
    """Files of a hub repository at a pinned revision."""

    repo: str = Field(description="owner/name on the hub")
    revision: Revision = Field(description="commit of the repository, 40 hexadecimal digits")


class SplitRef(Settings):
    """A split of a corpus."""

    corpus: str = Field(description="name under `corpora`")
    split: Name = Field(description="train, validation or test")
