"""What several files of tests ask for."""

import pytest
from hypothesis import HealthCheck, settings

from scorl.cli import main

# A busy machine is no failure.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")


@pytest.fixture
def scorl(capsys):
    """Runs a command; its exit code, what it wrote to stdout and to stderr."""

    def run(*arguments):
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            main([str(argument) for argument in arguments])
        return caught.value.code, *capsys.readouterr()

    return run
