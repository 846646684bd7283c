"""Distil a model's failures into one direction a class: see src/commands/train_svms.py, or --help."""

from src.commands.train_svms import main

if __name__ == "__main__":
    main()
