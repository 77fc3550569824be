"""The earlier name of `python -m fdsl.summarize`, for commands that are written down somewhere."""

import runpy

if __name__ == "__main__":
    runpy.run_module("fdsl.summarize", run_name="__main__", alter_sys=True)
