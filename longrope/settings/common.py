"""What all settings share: types with units, and the base that refuses unknown keys."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

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


class SplitRef(Settings):
    """A split of a corpus."""

    corpus: str = Field(description="name under `corpora`")
    split: str = Field(description="train, validation or test")
