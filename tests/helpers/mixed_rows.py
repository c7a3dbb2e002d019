"""Token stores and rows that mix short and long windows."""

import json

import numpy as np

from longrope.data.token_store import TokenStore
from longrope.training.rows import Mix


def write_documents(folder, lengths):
    """Write a token store of documents: document 1 is 1000, 1001, ... and so on."""
    folder.mkdir()
    tokens = [1000 * number + np.arange(length) for number, length in enumerate(lengths, start=1)]
    (folder / "tokens.bin").write_bytes(np.concatenate(tokens).astype(np.uint32).tobytes())
    np.save(folder / "offsets.npy", np.cumsum([0, *lengths]))
    meta = {"dtype": "uint32", "names": list(map(str, lengths)), "num_tokens": sum(lengths)}
    (folder / "tokens.json").write_text(json.dumps(meta))
    return TokenStore(folder)


def mix(window=16, **changes):
    values = {"num_rows": 60, "passkey_fraction": 0.0, "begin": (0,), "end_token": 1, "seed": 0}
    return Mix(text_length=window, **(values | changes))
