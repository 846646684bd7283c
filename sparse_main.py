"""Make a model's last layer sparse: see src/commands/sparse.py, or --help."""

from src.runtime.signals import quiet_start

with quiet_start():
    from src.commands.sparse import main

    if __name__ == "__main__":
        main()
