"""The definitions in a real API server."""

import pytest
from tests.api.cluster import install


@pytest.fixture(scope="session")
def definitions(sandbox):
    """The sandbox with our kinds installed and established."""
    install(sandbox)
    return sandbox
