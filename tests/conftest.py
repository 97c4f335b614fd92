"""What holds for every test."""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before torch: a model this small gains nothing from a second thread, and the
# other core has tests of its own; child processes inherit it
