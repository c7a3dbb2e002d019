"""The content-addressed store: identity, atomic commit, code identity, provenance, deletion, score memory."""
