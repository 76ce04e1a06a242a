"""What a run leaves open, and how many files it leaves, does not grow with its steps; make test-long makes 10,000."""

from long_run import KEPT, find_growth, measure


def test_handles_threads_and_files_stay_as_many(tmp_path):
    looks = measure(tmp_path, steps=2 * KEPT)
    assert find_growth(looks) == []
    assert len(list((tmp_path / "run" / "attempts").iterdir())) == KEPT
