"""`python -m dataset_interfaces`: the same as `failure-directions interfaces`."""

import sys

from failure_directions.runtime.signals import quiet_start

with quiet_start():
    from failure_directions.commands.interfaces import main

    if __name__ == "__main__":
        sys.argv[0] = "python -m dataset_interfaces"  # what --help calls it
        main()
