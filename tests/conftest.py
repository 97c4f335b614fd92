"""What several test modules share."""

import pytest
import torch


@pytest.fixture(scope="module")
def one_thread():
    """A model this small gains nothing from a second thread, and loses much on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
