"""All mistakes of a configuration at once, whatever its first mistake hides."""

import copy
import re
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from longrope.errors import Mistake, mistakes
from longrope.settings import sense
from longrope.settings.config import Config

SEE = "config/README.md"
ROUNDS = 30
"""validations at most; each removes a wrong value or what holds it"""
REQUIRED: dict[str, Any] = {
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


def check(raw: dict[str, Any]) -> Checked:
    """Return every mistake of the settings: keys, values, and constraints between those that are right."""
    content = copy.deepcopy(raw)
    sentences: list[str] = []
    replaced: set[str] = set()
    for _ in range(ROUNDS):
        try:
            config = Config.model_validate(content)
        except ValidationError as error:
            problems = mistakes(error, Config, SEE)
            sentences += [p.sentence for p in problems if not _names_any(p.sentence, replaced)]
            for problem in problems:
                replaced |= _mend(content, problem)
            continue
        broken = [s for s in sense.mistakes(config, content) if not _names_any(s, replaced)]
        return Checked([*sentences, *broken], config, frozenset(replaced))
    return Checked(sentences, None, frozenset(replaced))


def _names_any(sentence: str, names: set[str] | frozenset[str]) -> bool:
    return any(re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", sentence) for name in names)


def _mend(content: dict[str, Any], mistake: Mistake) -> set[str]:
    """Rename a misspelt key, or else remove a wrong value or what holds it; return the keys concerned."""
    chain = _chain(content, mistake.keys)
    if not chain:
        name = str(mistake.keys[0])
        content[name] = copy.deepcopy(REQUIRED.get(name))
        return {name}
    # An entry of a list stays in its place: sentences count them.
    while isinstance(chain[-1][0], list):
        chain.pop()
    holder, key = chain[-1]
    value = holder.pop(key)
    if mistake.meant:
        holder.setdefault(mistake.meant, value)
    names = [part for part in mistake.keys if isinstance(part, str)]
    return {names[-1], str(key), mistake.meant} - {""}


def _chain(content: Any, keys: tuple[int | str, ...]) -> list[tuple[Any, int | str]]:
    """Return the mappings and lists on the way to a key, each with the key that leads on."""
    chain: list[tuple[Any, int | str]] = []
    for key in keys:
        present = key in content if isinstance(content, dict) else False
        if isinstance(content, list):
            present = isinstance(key, int) and key < len(content)
        if not present:
            break
        chain.append((content, key))
        content = content[key]
    return chain
