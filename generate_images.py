"""Images generated from the captions of failure directions: see src/commands/generate.py, or --help."""

from src.runtime.signals import quiet_start

with quiet_start():
    from src.commands.generate import main

    if __name__ == "__main__":
        main()
