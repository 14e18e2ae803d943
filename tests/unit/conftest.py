"""What tests of more than one unit share."""

from __future__ import annotations

import pytest

from tests.support.futures import Owner
from tests.support.recording import Log


@pytest.fixture
def owner(log: Log) -> Owner:
    """Makes futures, and writes down what they tell."""
    return Owner(log)
