"""The program by its command line, for what flags become."""

import pytest
from program import Program


@pytest.fixture(scope="session")
def program():
    program = Program()
    yield program
    program.close()
