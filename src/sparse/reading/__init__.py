"""What the few features of a sparse decision layer stand for, and what they explain of a model's mistakes."""
