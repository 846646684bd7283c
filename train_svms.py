"""Distil a model's failures into one direction a class: see src/commands/distil.py, or --help."""

from src.runtime.signals import quiet_start

with quiet_start():
    from src.commands.distil import main

    if __name__ == "__main__":
        main()
