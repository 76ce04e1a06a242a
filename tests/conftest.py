"""What several files of tests ask for."""

import pytest

from scorl.cli import main


@pytest.fixture
def scorl(capsys):
    """Runs a command; its exit code, what it wrote to stdout and to stderr."""

    def run(*arguments):
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            main([str(argument) for argument in arguments])
        return caught.value.code, *capsys.readouterr()

    return run
