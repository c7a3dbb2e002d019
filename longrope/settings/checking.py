"""All mistakes of a configuration at once, whatever its first mistake hides."""

import copy
import re
from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import ValidationError

from longrope.errors import Mistake, mistakes
from longrope.settings import sense
from longrope.settings.config import Config

SEE = "config/README.md"
ROUNDS = 30
"""validations at most; each removes a wrong value or what holds it"""
REQUIRED: dict[str, object] = {
    "experiment": "unnamed",
    "model": {"name": "unnamed", "original_length": 2},
    "corpora": {},
    "search": {"documents": {"corpus": "unnamed", "split": "unnamed"}},
}
"""values of required keys, for checks of the others"""


@dataclass(frozen=True)
class Checked:
    """Mistakes of a configuration, and its settings without them."""

    mistakes: list[str]
    config: Config | None
    """with defaults instead of wrong values; None if it could not be mended"""
    replaced: frozenset[str]
    """last parts of the keys whose values are other ones in `config`"""

    def is_doubtful(self, sentence: str) -> bool:
        """Return whether a sentence about `config` names a key whose value is not the user's."""
        return _names_any(sentence, self.replaced)


def check(raw: dict[str, object]) -> Checked:
    """Return every mistake of the settings: keys, values, and constraints between those that are right."""
    content = copy.deepcopy(raw)
    sentences: list[str] = []
    replaced: set[str] = set()
    schema: Mapping[str, object] = {}
    for _ in range(ROUNDS):
        try:
            config = Config.model_validate(content)
        except ValidationError as error:
            schema = schema or Config.model_json_schema()
            problems = mistakes(error, schema, SEE)
            sentences += [p.sentence for p in problems if not _names_any(p.sentence, replaced)]
            for problem in problems:
                replaced |= _mend(content, problem)
            continue
        broken = [s for s in sense.mistakes(config, content) if not _names_any(s, replaced)]
        return Checked([*sentences, *broken], config, frozenset(replaced))
    return Checked(sentences, None, frozenset(replaced))


def _names_any(sentence: str, names: set[str] | frozenset[str]) -> bool:
    return any(re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", sentence) for name in names)


def _mend(content: dict[str, object], mistake: Mistake) -> set[str]:
    """Rename a misspelt key, or else remove a wrong value or what holds it; return the keys concerned."""
    place = _last_mapping(content, mistake.keys)
    if place is None:
        name = str(mistake.keys[0])
        content[name] = copy.deepcopy(REQUIRED.get(name))
        return {name}
    holder, key = place
    value = holder.pop(key)
    if mistake.meant:
        holder.setdefault(mistake.meant, value)
    names = [part for part in mistake.keys if isinstance(part, str)]
    return {names[-1], str(key), mistake.meant} - {""}


def _last_mapping(
    content: object, keys: tuple[int | str, ...]
) -> tuple[dict[int | str, object], int | str] | None:
    """Return the last mapping on the way to a key, with its key that leads on; None if there is no way.

    A list is passed over: its entries stay in their places, since sentences count them.
    """
    place = None
    for key in keys:
        if isinstance(content, dict) and key in content:
            place, content = (content, key), content[key]
        elif isinstance(content, list) and isinstance(key, int) and key < len(content):
            content = content[key]
        else:
            break
    return place
