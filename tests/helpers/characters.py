"""A tokenizer with a token for every character, so that texts and tokens can be read side by side."""

import string

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

WRITTEN = string.ascii_letters + string.digits + " .,?~\n"
"""characters of passkey prompts, and the tilde, the token of all unknown ones"""


def character_tokenizer(first: int = 0, count: int = len(WRITTEN)) -> Tokenizer:
    """Return a tokenizer whose tokens are `count` characters, from id `first`: `WRITTEN`, then others."""
    others = (chr(0x4E00 + number) for number in range(count - len(WRITTEN)))
    characters = [*WRITTEN, *others]
    ids = {character: first + number for number, character in enumerate(characters)}
    made = Tokenizer(models.WordLevel(ids, unk_token="~"))
    made.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    made.decoder = decoders.Fuse()
    return made
