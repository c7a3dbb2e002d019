"""Tokenizers of every kind that models have: made-up ones, and the real one of Mistral v0.1."""

from pathlib import Path

from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from longrope.data import prompts
from longrope.data.packages import Package, download, read_member

WORDING = [
    prompts.INTRODUCTION,
    prompts.FILLER,
    prompts.NEEDLE.format(key=48213),
    f"{prompts.QUESTION} 48213",
    "".join(map(chr, range(32, 127))),
]
MISTRAL = Package(
    name="mistral-common",
    version="1.13.1",
    file="mistral_common-1.13.1-py3-none-any.whl",
    sha256="98b4d0755b8d90bf4691fa8f1b70cb3b4a8cd4dc1653c4ed08ef3d1c7d2c29af",
    licence="Apache-2.0",
)
SPACE = "\u2581"


def _trained(texts: list[str] = WORDING, **parts: object) -> Tokenizer:
    made = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    for name, part in parts.items():
        setattr(made, name, part)
    trainer = trainers.BpeTrainer(
        vocab_size=900,
        special_tokens=["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(texts * 50, trainer)
    return made


def byte_level() -> Tokenizer:
    """Return one of the GPT-2 kind, whose numbers are single tokens."""
    return _trained(
        pre_tokenizer=pre_tokenizers.ByteLevel(add_prefix_space=False),
        decoder=decoders.ByteLevel(),
    )


def digits_split() -> Tokenizer:
    """Return a byte-level one that gives each digit a token."""
    digits = pre_tokenizers.Digits(individual_digits=True)
    level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return _trained(
        pre_tokenizer=pre_tokenizers.Sequence([digits, level]), decoder=decoders.ByteLevel()
    )


def space_normalized() -> Tokenizer:
    """Return one of the Llama-2 kind: a normalizer puts a space before every text."""
    # no pre-tokenizer keeps words apart, so they are learnt one by one: SentencePiece merges none either
    words = [word for text in WORDING for word in text.split(" ")]
    return _trained(words, normalizer=_spaces(), decoder=_of_spaces())


def metaspace() -> Tokenizer:
    """Return one whose pre-tokenizer puts a space before every text."""
    return _trained(
        pre_tokenizer=pre_tokenizers.Metaspace(prepend_scheme="always"), decoder=_of_spaces()
    )


def metaspace_digits() -> Tokenizer:
    """Return one that puts a space before every text and gives each digit a token."""
    spaces = pre_tokenizers.Metaspace(prepend_scheme="always")
    digits = pre_tokenizers.Digits(individual_digits=True)
    return _trained(pre_tokenizer=pre_tokenizers.Sequence([spaces, digits]), decoder=_of_spaces())


def begins_with_bos() -> Tokenizer:
    """Return a byte-level one that puts BOS before every text by a template."""
    made = byte_level()
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    return made


KINDS = {
    kind.__name__: kind
    for kind in (
        *(byte_level, digits_split, space_normalized),
        *(metaspace, metaspace_digits, begins_with_bos),
    )
}


def mistral(cache: Path) -> Tokenizer:
    """Return the tokenizer of Mistral v0.1, built from its SentencePiece model as transformers does.

    Raises:
        UserError: if the package can be had neither from `cache` nor from the index.
    """
    archive = download(MISTRAL, cache)
    vocabulary = _vocabulary(read_member(archive, "mistral_common/data/tokenizer.model.v1"))
    ids = {piece: number for number, (piece, _) in enumerate(vocabulary)}
    scores = dict(vocabulary)
    merges = [
        (-scores[piece], ids[left], ids[right], left, right)
        for piece in ids
        for left, right in ((piece[:at], piece[at:]) for at in range(1, len(piece)))
        if left in ids and right in ids
    ]
    made = Tokenizer(
        models.BPE(
            ids,
            [(left, right) for *_, left, right in sorted(merges)],
            unk_token="<unk>",
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    made.add_special_tokens([AddedToken(name, special=True) for name in ("<unk>", "<s>", "</s>")])
    made.normalizer, made.decoder = _spaces(), _of_spaces()
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    return made


def _spaces() -> normalizers.Normalizer:
    return normalizers.Sequence([normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)])


def _of_spaces() -> decoders.Decoder:
    return decoders.Sequence(
        [
            decoders.Replace(SPACE, " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )


def _vocabulary(model: bytes) -> list[tuple[str, float]]:
    """Return text and score of every piece of a SentencePiece model, in the order of their ids."""
    from transformers.utils import sentencepiece_model_pb2_new

    read = sentencepiece_model_pb2_new.ModelProto()
    read.ParseFromString(model)
    return [(piece.piece, piece.score) for piece in read.pieces]
