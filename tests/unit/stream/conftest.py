"""What tests of streams share."""

from __future__ import annotations

import pytest

from tests.support.streams import Gated


@pytest.fixture
def gated():
    gated = Gated()
    yield gated
    gated.gate.set()
