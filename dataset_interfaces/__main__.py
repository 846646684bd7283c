"""`python -m dataset_interfaces`: the same as `failure-directions interfaces`."""

from failure_directions.commands.interfaces import main

if __name__ == "__main__":
    main()
