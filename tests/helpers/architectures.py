"""Every supported architecture, by its name in a config; imports nothing."""

ARCHITECTURES: dict[str, str] = {
    "llama": "Llama",
    "mistral": "Mistral",
    "phi3": "Phi3",
    "qwen2": "Qwen2",
    "qwen3": "Qwen3",
    "gpt_neox": "GPTNeoX",
}
"""model_type -> prefix of transformers' classes"""
