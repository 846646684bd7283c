"""Look at a result: figures and captions in a notebook, and the report as one HTML file.

    python visualization_utils.py --svm results/cifar_svm.pt --report results/cifar_report.html

In a notebook: `from visualization_utils import SVMProcessor, ClipAnalyzer`. The command is src/commands/report.py.
"""

import importlib

_EXPORTS = {
    "ClipAnalyzer": "captions.analyzer",
    "SVMProcessor": "directions.galleries",
    "main": "commands.report",
    "write_report": "report.page",
}

__all__ = [*_EXPORTS]


def __getattr__(name):
    # Late: a report needs no CLIP, and open_clip takes seconds to import.
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"src.{_EXPORTS[name]}"), name)


if __name__ == "__main__":
    from src.runtime.signals import quiet_start

    with quiet_start():
        __getattr__("main")()
