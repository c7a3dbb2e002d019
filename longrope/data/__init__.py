"""Files without torch: packages, documents, token stores, tokenizers, prompts, items, model folders."""
