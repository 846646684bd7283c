"""Write betons: see src/commands/betons.py, or --help. The same as `failure-directions betons`."""

try:
    from failure_directions.commands.betons import main
except ModuleNotFoundError:  # not installed: the checkout, one folder up
    import sys
    from pathlib import Path

    sys.path.append(str(Path(__file__).resolve().parents[1]))
    from src.commands.betons import main

if __name__ == "__main__":
    main()
