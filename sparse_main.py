"""Make a model's last layer sparse: see src/commands/sparse_main.py, or --help."""

from src.commands.sparse_main import main

if __name__ == "__main__":
    main()
