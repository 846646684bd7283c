"""Images generated from the captions of failure directions: see src/commands/generate_images.py, or --help."""

from src.commands.generate_images import main

if __name__ == "__main__":
    main()
