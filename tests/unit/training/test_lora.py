"""Low-rank adapters: what is trained, and the plain weights that come of it."""

import ast
import importlib.util
import json
from pathlib import Path

import node_settings
import parallel_runs
import pytest
import torch
import workflow_files
from killing import Interrupt
from small_trainings import run_stage, write_tokens
from tiny_models import build
from tokenizers import Tokenizer, models
from tolerances import LOGITS
from transformers import AutoModelForCausalLM

import longrope
from longrope.errors import UserError
from longrope.plan import build as plan
from longrope.rope.factors import RopeFactors
from longrope.runtime import Input
from longrope.settings import loading as configuration
from longrope.settings.training import LoraSettings
from longrope.training import trainer as training
from longrope.training.lora import add_adapters, merged, remove_adapters

LORA = LoraSettings(rank=4, alpha=8.0)

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:torch")


def test_adapters_change_no_output_and_leave_all_else_frozen(model):
    tokens = torch.randint(0, 97, (1, 20), generator=torch.Generator().manual_seed(1))
    expected = model(tokens).logits
    matrices = {name for name, parameter in model.named_parameters() if parameter.dim() == 2}
    inner = {name.removesuffix(".weight") for name in matrices if ".layers." in name}
    small = {name for name, parameter in model.named_parameters() if "norm" in name}
    add_adapters(model, LORA, seed=0)
    assert torch.equal(model(tokens).logits, expected)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    adapters = {f"{name}.lora_{x}.default.weight" for name in inner for x in "AB"}
    (embedding,) = (name for name in matrices if "embed" in name and "out" not in name)
    assert inner and trained == adapters | small | {embedding}


def test_without_norms_and_embeddings_only_adapters_are_trained(llama):
    add_adapters(llama, LoraSettings(rank=4, alpha=8.0, norms_and_embeddings=False), seed=0)
    trained = {name for name, parameter in llama.named_parameters() if parameter.requires_grad}
    assert trained and all("lora_" in name for name in trained)


def test_adapters_depend_on_the_seed_and_draw_no_other_random_number():
    def adapted(seed):
        torch.manual_seed(9)
        model = build("llama")
        add_adapters(model, LORA, seed=seed)
        return model.state_dict(), torch.rand(1)

    (first, after), (same, _), (other, _) = adapted(0), adapted(0), adapted(1)
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)
    build("llama")
    assert torch.equal(after, torch.rand(1))


def test_merged_weights_alone_compute_what_the_adapted_model_does(model):
    tokens = torch.randint(0, 97, (1, 20), generator=torch.Generator().manual_seed(1))
    plain = model(tokens).logits
    names = list(model.state_dict())
    add_adapters(model, LORA, seed=0)
    generator = torch.Generator().manual_seed(3)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.02
    adapted = model(tokens).logits  # by peft
    assert not torch.allclose(adapted, plain, atol=0.01)
    weights = merged(model.state_dict(), LORA)
    remove_adapters(model)
    assert list(model.state_dict()) == names and weights.keys() == set(names)
    torch.testing.assert_close(model(tokens).logits, plain)
    model.load_state_dict(weights)
    torch.testing.assert_close(model(tokens).logits, adapted, **LOGITS)


# Training -----------------------------------------------------------------------------------------


def trained(work, callbacks=()):
    model = build("llama")
    add_adapters(model, LORA, seed=0)
    settings = parallel_runs.SETTINGS | {"num_steps": 4}
    rows = parallel_runs.Rows(32, 16)
    given = {"work": work, "micro_batch_size": 4, "callbacks": callbacks}
    log = training.train(model, rows, **node_settings.training(settings), **given).log
    return model, log


def test_training_resumes_to_the_same_bits(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "interrupted", [Interrupt(3)])
    checkpoints = tmp_path / "interrupted" / "_checkpoints"
    assert [path.name for path in checkpoints.iterdir()] == ["checkpoint-2"]
    resumed, log = trained(tmp_path / "interrupted")
    whole, expected = trained(tmp_path / "whole")
    assert [entry["loss"] for entry in log] == [entry["loss"] for entry in expected]
    for name, values in whole.state_dict().items():
        assert "lora_B" not in name or values.any(), "every adapter has learned something"
        assert torch.equal(resumed.state_dict()[name], values), name


def test_the_written_model_is_a_plain_one_whose_head_did_not_change(tmp_path):
    base = tmp_path / "base"
    model = build("llama", bos_token_id=0, eos_token_id=1)
    model.save_pretrained(base)
    Tokenizer(models.BPE(vocab={"a": 0}, merges=[])).save(str(base / "tokenizer.json"))
    factors = RopeFactors(
        factors=(2.0,) * 8, original_length=64, target_length=128, method="longrope"
    )
    factors.save(tmp_path / "factors.json")
    write_tokens(tmp_path / "tokens")
    settings = {"text_length": 64, "passkey_fraction": 0.0, "full_attention": False, "bos": "never"}
    settings |= {"lora": LORA.model_dump()}
    places = {"model": base, "tokenizer": base, "factors": tmp_path, "tokens": tmp_path / "tokens"}
    inputs = {role: Input(path, role) for role, path in places.items()}
    (tmp_path / "out").mkdir()
    run_stage(parallel_runs.SETTINGS | settings, inputs, tmp_path / "out")
    written = AutoModelForCausalLM.from_pretrained(tmp_path / "out" / "model").state_dict()
    before = model.state_dict()
    assert written.keys() == before.keys()
    same = {name for name in before if torch.equal(written[name], before[name])}
    assert same == {"lm_head.weight"}
    assert "peft" not in json.dumps(json.loads((tmp_path / "out/model/config.json").read_text()))


# Package and settings -----------------------------------------------------------------------------


def test_only_the_module_of_adapters_imports_peft_and_only_when_asked():
    folder = Path(longrope.__file__).parent
    importers = set()
    for path in folder.rglob("*.py"):
        tree = ast.parse(path.read_bytes())
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("peft"):
                assert node not in tree.body, f"{path.name} imports peft when it is imported"
                importers.add(path.name)
            assert not (isinstance(node, ast.Import) and "peft" in {a.name for a in node.names})
    assert importers == {"lora.py"}


def test_a_machine_without_peft_is_told_what_to_install(llama, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'longrope\[train\]'"):
        add_adapters(llama, LORA, seed=0)


def test_adapters_are_in_the_digest_and_their_absence_is_not(tmp_path):
    workflow_files.write_experiment(tmp_path)

    def node(**changes):
        settings = workflow_files.settings()
        settings["extension"][0]["finetune"] |= changes
        config = configuration.parse(settings, source="small.yaml")
        (tuned,) = plan.build(config, tmp_path).of("finetune")
        return tuned

    assert "lora" not in node().settings.identity()["training"]
    assert node(lora={"rank": 4, "alpha": 8}).settings.training.lora == LORA
    assert node(lora={"rank": 4}).digest != node(lora={"rank": 8}).digest
