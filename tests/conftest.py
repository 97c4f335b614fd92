"""What holds for every test."""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before torch: a model this small gains nothing from a second thread, and the
# other core has tests of its own; child processes inherit it


def pytest_collection_modifyitems(items):
    """The whole series goes first: it keeps one worker as busy as all other tests keep the rest."""
    items.sort(key=lambda item: item.path.name != "test_series.py")
