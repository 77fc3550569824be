"""`python -m utils.summarize` still works: runs fdsl.summarize by name, as utils imports nothing of ours."""

import runpy

if __name__ == "__main__":
    runpy.run_module("fdsl.summarize", run_name="__main__", alter_sys=True)
