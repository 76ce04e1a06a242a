"""Whether two runs are equal bit for bit, but for their clocks: python tests/twice.py RUN RUN     (make test-demo)."""

import json
import sys
from pathlib import Path

from kills import find_differences, read_run


def main() -> None:
    """Name what differs; exit code 1 if something does."""
    steps = [len((Path(run) / "steps.jsonl").read_text().splitlines()) for run in sys.argv[1:]]
    one, other = (read_run(Path(run), count) for run, count in zip(sys.argv[1:], steps, strict=True))
    different = sorted(find_differences(one, other))
    figures = json.dumps({name: value["value"] for name, value in one["evaluation.json"]["test"]["metrics"].items()})
    print("\n".join(different) if different else f"equal in {len(one)} files: {figures[:300]}")
    sys.exit(bool(different))


if __name__ == "__main__":
    main()
