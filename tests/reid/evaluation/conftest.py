"""What the tests of evaluation share."""

import pytest
import torch


@pytest.fixture
def one_thread():
    """As in the joined processes: the number of threads decides how sums are split."""
    number = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(number)
