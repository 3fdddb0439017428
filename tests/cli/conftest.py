"""The program by its command line."""

import pytest
from program import Program


@pytest.fixture(scope="session")
def program():
    program = Program()
    yield program
    program.close()
