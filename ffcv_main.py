"""Train a base model on betons and measure it, or retrain it: see src/commands/train.py, or --help."""

from src.runtime.signals import quiet_start

with quiet_start():
    from src.commands.train import main

    if __name__ == "__main__":
        main()
