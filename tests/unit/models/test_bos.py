"""Tests of how windows begin: tokens that a tokenizer adds before a text, in every stage alike."""

import json

import pytest
import torch
from node_settings import node_settings
from tiny_models import build
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from tolerances import REORDERED
from transformers import AutoTokenizer

from longrope.data.documents import NamedText
from longrope.data.token_store import TokenStore, write_store
from longrope.data.tokenizers import begin_tokens
from longrope.errors import UserError
from longrope.models.loading import geometry
from longrope.models.rotary import install
from longrope.rope.factors import RopeFactors
from longrope.rope.methods import closed_form
from longrope.runtime import Input, Runtime
from longrope.search.objective import Objective, draw_texts
from longrope.search.workers.pools import InProcess
from longrope.search.workers.recipe import Scorer
from longrope.settings.nodes import NodeRuntime
from longrope.stages import evaluate, finetune, readjust, search
from longrope.store.score_memory import ScoreMemory

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:torch")

SPECIAL = ["<unk>", "<s>", "</s>", "<mask>"]
LETTERS = sorted(pre_tokenizers.ByteLevel.alphabet())


def template(single):
    ids = [(token, SPECIAL.index(token)) for token in SPECIAL if token in single.split()]
    return processors.TemplateProcessing(single=single, pair=f"{single} $B:1", special_tokens=ids)


BYTE_LEVEL = processors.ByteLevel(trim_offsets=False)
KINDS = {
    "nothing is added": ("bytes", None, ()),
    "offsets alone are mended": ("bytes", BYTE_LEVEL, ()),
    "an empty template": ("bytes", template("$A"), ()),
    "BOS by a template": ("bytes", template("<s> $A"), (1,)),
    "BOS and EOS by a template": ("bytes", template("<s> $A </s>"), (1,)),
    "EOS alone": ("bytes", template("$A </s>"), ()),
    "two tokens": ("bytes", template("<mask> <s> $A"), (3, 1)),
    "a sequence of processors": (
        "bytes",
        processors.Sequence([BYTE_LEVEL, template("<s> $A")]),
        (1,),
    ),
    "pieces with a space before, and BOS": ("pieces", template("<s> $A"), (1,)),
    "pieces with a space before": ("pieces", None, ()),
}


def save_tokenizer(folder, kind="bytes", processor=None, **config):
    """Save a tokenizer of single characters with `<s>` as token 1, and its configuration."""
    folder.mkdir(exist_ok=True)
    letters = LETTERS if kind == "bytes" else ["\u2581", *map(chr, range(33, 127))]
    vocabulary = {token: index for index, token in enumerate([*SPECIAL, *letters])}
    made = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
    if kind == "bytes":
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        made.decoder = decoders.ByteLevel()
    else:
        made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    made.add_special_tokens(SPECIAL)
    if processor is not None:
        made.post_processor = processor
    made.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", **config}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


# One tokenizer ------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", [{}, {"add_bos_token": True}, {"add_bos_token": False}])
@pytest.mark.parametrize("name", KINDS)
def test_auto_is_what_transformers_puts_before_a_text(tmp_path, name, config):
    kind, processor, expected = KINDS[name]
    folder = save_tokenizer(tmp_path / "m", kind, processor, bos_token="<s>", **config)
    theirs = AutoTokenizer.from_pretrained(folder)
    text = "Of the beginning."
    whole, bare = (theirs(text, add_special_tokens=added)["input_ids"] for added in (True, False))
    (num_added,) = [n for n in range(len(whole)) if whole[n : n + len(bare)] == bare]
    assert begin_tokens(folder, "auto") == tuple(whole[:num_added]) == expected


def test_never_is_nothing_whatever_the_tokenizer_adds(tmp_path):
    assert begin_tokens(save_tokenizer(tmp_path, "bytes", template("<s> $A")), "never") == ()


@pytest.mark.parametrize(
    ("tokenizer_config", "config"),
    [
        ({"bos_token": "<s>"}, {}),
        ({"bos_token": {"content": "<s>", "lstrip": False}}, {"bos_token_id": 2}),
        ({"bos_token": None}, {"bos_token_id": 1}),
        ({}, {"bos_token_id": 1}),
    ],
)
def test_always_is_bos_where_the_tokenizer_adds_none(tmp_path, tokenizer_config, config):
    save_tokenizer(tmp_path, **tokenizer_config)
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert begin_tokens(tmp_path, "always") == (1,)
    assert begin_tokens(tmp_path, "auto") == ()


def test_always_and_auto_are_alike_where_the_tokenizer_adds_something(tmp_path):
    save_tokenizer(tmp_path, "bytes", template("<mask> <s> $A"), bos_token="<s>")
    assert begin_tokens(tmp_path, "always") == begin_tokens(tmp_path, "auto") == (3, 1)


@pytest.mark.parametrize("config", [None, {}, {"bos_token_id": None}])
def test_always_is_refused_where_nothing_names_bos(tmp_path, config):
    save_tokenizer(tmp_path, bos_token=None)
    if config is not None:
        (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"model.bos is always, but .* names no BOS"):
        begin_tokens(tmp_path, "always")


# Every stage --------------------------------------------------------------------------------------

CHARACTERS = [*map(chr, range(32, 127)), "\n"]
BOS = len(CHARACTERS)
"""behind the 96 characters; the random models have 97 tokens"""
COMMON = {"original_length": 64, "bos": "auto"}
EVOLUTION = {"name": "evolution", "population_size": 3, "num_iterations": 1, "num_parents": 2}
SEARCH = {"algorithm": EVOLUTION, "num_documents": 2, "start_tokens": [0, 2, 8]}
TRAINING = {
    **{"num_steps": 2, "text_length": 512, "passkey_fraction": 0.5, "batch_size": 4, "seed": 0},
    **{"learning_rate": 0.01, "schedule": "linear", "warmup_steps": 1, "weight_decay": 0.0},
    **{"max_grad_norm": 1.0, "adam_betas": [0.9, 0.95], "checkpoint_steps": 9},
    **{"pack_documents": True},
}
EVALUATION = {"variant": "base", "method": "linear"}
PERPLEXITY = {
    **{"task": "perplexity", "lengths": {"text": [64, 512]}, "num_documents": {"text": 2}},
    **{"skip_tokens": 3, "stride": 100},
}
PASSKEY = {"task": "passkey", "lengths": [400], "num_depths": 2, "num_trials": 1, "seed": 0}
LENGTHS = {"target_length": 512, "source_length": 64, "num_held_out": 2}
STAGES = {
    "search": (search, SEARCH | LENGTHS),
    "needles": (search, SEARCH | LENGTHS | {"objective": "needle"}),
    "readjust": (
        readjust,
        SEARCH | {"source_length": 512, "lengths": [64, 128], "num_attention_scales": 2},
    ),
    "finetune": (finetune, TRAINING),
    "window": (evaluate, EVALUATION | PERPLEXITY | {"protocol": "window"}),
    "sliding": (evaluate, EVALUATION | PERPLEXITY | {"protocol": "sliding"}),
    "passkey": (evaluate, EVALUATION | PASSKEY),
}


@pytest.fixture
def run_stage(tmp_path):
    """Return a function that runs a stage on a model whose tokenizer puts BOS before a text, or does not."""
    factors = RopeFactors(
        factors=(2.0,) * 8, original_length=64, target_length=512, method="longrope"
    )
    model = build("llama", bos_token_id=BOS, eos_token_id=0)
    model.save_pretrained(tmp_path / "model")
    factors.save(tmp_path / "model" / "factors.json")
    vocabulary = {token: index for index, token in enumerate([*CHARACTERS, "<s>"])}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="~"))
    made.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    (tmp_path / "tokens").mkdir()
    documents = [NamedText(f"book {n}", f"{n} little words " * 60) for n in range(3)]
    write_store(tmp_path / "tokens", documents, made, 97)
    names = {"model": "model", "tokenizer": "model", "tokens": "tokens", "tokens-text": "tokens"}
    names |= {"watched": "tokens", "factors": "model", "factors-0": "model", "held_out": "tokens"}
    inputs = {role: Input(tmp_path / name, name) for role, name in names.items()}

    def ran(name, *, adds_bos):
        if adds_bos:
            made.post_processor = processors.TemplateProcessing(
                single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", BOS)]
            )
        made.save(str(tmp_path / "model" / "tokenizer.json"))
        module, settings = STAGES[name]
        out = tmp_path / "out"
        out.mkdir()
        watch = {"num_documents": 2, "every_steps": 2} if name == "finetune" else None
        options = NodeRuntime.model_validate({"micro_batch_size": 2, "watch": watch})
        kind = module.__name__.rpartition(".")[2]
        more = {} if name == "finetune" else {"dtype": "float32"}
        given = node_settings(kind, settings | COMMON | more)
        module.run(given, inputs, out, Runtime(tmp_path, tmp_path, options))
        return out

    return ran


def first_tokens(monkeypatch):
    """Return a set that collects the first token of every sequence which any model reads from now on."""
    seen = set()
    forward = torch.nn.Embedding.forward

    def spied(self, tokens):
        seen.update(tokens[..., 0].flatten().tolist())
        return forward(self, tokens)

    monkeypatch.setattr(torch.nn.Embedding, "forward", spied)
    return seen


@pytest.mark.parametrize("name", STAGES)
def test_every_window_of_every_stage_begins_with_bos(name, run_stage, monkeypatch):
    seen = first_tokens(monkeypatch)
    out = run_stage(name, adds_bos=True)
    assert seen == {BOS}
    texts = {path.name: path.read_text() for path in out.glob("*.json")}
    if name != "finetune":
        (text,) = texts.values()
        assert '"bos": "yes"' in text


@pytest.mark.parametrize("name", STAGES)
def test_no_window_of_any_stage_begins_with_bos_where_the_tokenizer_adds_none(
    name, run_stage, monkeypatch
):
    seen = first_tokens(monkeypatch)
    out = run_stage(name, adds_bos=False)
    assert BOS not in seen and seen
    if name != "finetune":
        (text,) = [path.read_text() for path in out.glob("*.json")]
        assert '"bos": "no"' in text


@pytest.mark.parametrize("begin", [(), (BOS,), (3, BOS)])
def test_a_search_scores_what_transformers_does_for_the_text_behind_bos(begin, tmp_path):
    model = build("llama")
    model.save_pretrained(tmp_path / "model")
    documents = [NamedText(f"book {n}", "abcdefgh" * 40) for n in range(2)]
    (tmp_path / "tokens").mkdir()
    made = Tokenizer(models.WordLevel({c: i for i, c in enumerate(CHARACTERS)}, unk_token="~"))
    made.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    write_store(tmp_path / "tokens", documents, made, 97)
    store = TokenStore(tmp_path / "tokens")
    texts = draw_texts(store, length=128, count=2, seed=0, what="documents", begin=begin)
    rope_geometry = geometry(model, 64)
    factors = closed_form("yarn", rope_geometry, 128)
    pool = InProcess(
        Scorer(tmp_path / "model", "float32", full_attention=False, chunk_length=50).open()
    )
    objective = Objective(pool, ScoreMemory(tmp_path / "scores", {}), texts)
    scores = objective.scores([objective.unit(factors, n) for n in range(2)])
    install(model, rope_geometry).use(factors)
    for text, score in zip(texts, scores, strict=True):
        first, end = text.key["begin"], text.key["end"]
        row = [*begin, *store.document(text.key["document"], first, end).tolist()]
        assert text.tokens.tolist() == row and len(row) == 128
        with torch.no_grad():
            logits = model(torch.tensor([row])).logits[0, :-1]
        losses = torch.nn.functional.cross_entropy(logits, torch.tensor(row[1:]), reduction="none")
        text_losses = losses[max(0, len(begin) - 1) :]
        assert score.num_tokens == len(text_losses)
        assert score.nll == pytest.approx(float(text_losses.sum()), rel=REORDERED)
    again = Objective(pool, ScoreMemory(tmp_path / "scores", {}), texts)
    assert again.scores([again.unit(factors, n) for n in range(2)]) == scores
