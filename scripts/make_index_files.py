"""Write index files: see src/commands/index.py, or --help. The same as `failure-directions index`."""

try:
    from failure_directions.runtime.signals import quiet_start
except ModuleNotFoundError:  # not installed: the checkout, one folder up
    import sys
    from pathlib import Path

    sys.path.append(str(Path(__file__).resolve().parents[1]))
    from src.runtime.signals import quiet_start

with quiet_start():
    # Whichever name the package has been given.
    from failure_directions.commands.index import main

    if __name__ == "__main__":
        main()
