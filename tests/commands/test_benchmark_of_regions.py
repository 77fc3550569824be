"""benchmarks/regions.py runs, and both libraries find the same regions; how fast is not judged here."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_both_libraries_find_the_same_regions(tmp_path):
    file = tmp_path / "regions.json"
    command = ["benchmarks/regions.py", "--sides", "24", "61", "--repeats", "1", "--json", str(file)]
    ran = subprocess.run([sys.executable, *command], capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    found = json.loads(file.read_text())
    assert len(found["rows"]) == 8 and all(row["equal"] and row["regions"] > 1 for row in found["rows"])
    assert len(found["imports"]) == 3 and all(row["what"] in ran.stdout for row in found["rows"])
