"""The processes of tests with several ranks."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fakes_ranks import Crew


@pytest.fixture(scope="session")
def crew() -> Iterator[Crew]:
    crew = Crew()
    yield crew
    crew.close()
