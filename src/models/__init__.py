"""Models by name, each with its last linear layer known, so that features and predictions come from one pass."""
