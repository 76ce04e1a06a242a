"""What several files of tests ask for."""

import os

import pytest
from hypothesis import HealthCheck, settings
from support.outside import find_missing

from scorl.cli import main

# A busy machine is no failure.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")


def pytest_configure(config):
    """SCORL_REQUIRE=sandbox,chromium: no test is skipped for want of one of these; without it none is run."""
    wanted = os.environ.get("SCORL_REQUIRE")
    if wanted and not hasattr(config, "workerinput") and (faults := find_missing(wanted)):
        raise pytest.UsageError(f"SCORL_REQUIRE={wanted}: {'; '.join(faults)}")


@pytest.fixture
def scorl(capsys):
    """Runs a command; its exit code, what it wrote to stdout and to stderr."""

    def run(*arguments):
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            main([str(argument) for argument in arguments])
        return caught.value.code, *capsys.readouterr()

    return run
