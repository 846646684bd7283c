"""Make a model's last layer sparse: see src/commands/sparse.py, or --help."""

from src.commands.sparse import main

if __name__ == "__main__":
    main()
