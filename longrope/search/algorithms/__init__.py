"""Search algorithms with an ask/tell interface; they never see a model."""
