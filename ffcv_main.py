"""Train a base model on betons and measure it, or retrain it: see src/commands/ffcv_main.py, or --help."""

from src.commands.ffcv_main import main

if __name__ == "__main__":
    main()
