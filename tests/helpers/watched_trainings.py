"""A tiny training whose perplexity on held-out documents is watched."""

from node_settings import training
from small_trainings import SETTINGS, TOKENIZER, mix
from tiny_models import build

from longrope.data.token_store import TokenStore
from longrope.models.loading import geometry
from longrope.models.rotary import install
from longrope.rope.factors import RopeFactors
from longrope.settings.training import ParallelSettings
from longrope.training.rows import Chunks
from longrope.training.trainer import train
from longrope.training.validation import Watch

FACTORS = RopeFactors(
    factors=(1.0,) * 4 + (4.0,) * 4,
    attention_scale=1.1,
    original_length=64,
    target_length=256,
    method="longrope",
)


def watch(tokens, **changes):
    chosen = {"num_documents": 2, "every_steps": 4, "chunk_length": 100, "dtype": "float32"}
    return Watch(TokenStore(tokens), FACTORS, **(chosen | changes))


def trained(tokens, work, *callbacks, parallel=None, **changes):
    """Train, watched or not; return the weights and the log."""
    model = build("llama")
    install(model, geometry(model, 64)).use(FACTORS)
    result = train(
        model,
        Chunks(TokenStore(tokens), TOKENIZER, mix()),
        **training(SETTINGS | changes),
        work=work,
        micro_batch_size=2,
        parallel=ParallelSettings.model_validate(parallel or {}),
        callbacks=callbacks,
    )
    return model.state_dict(), result.log
