"""Runs of test.py side by side: what makes them, and what they leave."""

import json

from tests.support.small_runs import command

test = command("test")


def run(root, results, flags, *more):
    data = ["--dataset", "mvtec", "--data-path", str(root), "--results", str(results), "--batch-size", "3"]
    test.main([*data, *flags, *more])


def files_of(results):
    """Relative path -> bytes of every file, but for logs and what commands and times are called."""
    found = {}
    for path in sorted(results.rglob("*")):
        if path.is_file() and path.name not in ("log.txt", ".lock"):
            content = path.read_bytes()
            if path.name == "config.json":
                content = {key: value for key, value in json.loads(content).items() if key != "command"}
            if path.name != "report.html":  # it names the command
                found[str(path.relative_to(results))] = content
    return found
