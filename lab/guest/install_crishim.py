#!/usr/bin/python3
"""Build crishim's wheel from the checkout at /src and install it into /opt/crishim."""

import pathlib
import subprocess
import sys
import tempfile

PYTHON = "/opt/crishim/bin/python"
BUILD_PYTHON = "/opt/crishim-build/bin/python"


def main() -> int:
    """Build, install over what was there, say what happened."""
    with tempfile.TemporaryDirectory() as out:
        build = [BUILD_PYTHON, "-m", "hatchling", "build", "-t", "wheel", "-d", out]
        built = subprocess.run(build, cwd="/src", capture_output=True, text=True, check=False)
        if built.returncode != 0:
            print(built.stderr.strip())
            return built.returncode
        (wheel,) = pathlib.Path(out).glob("*.whl")
        pip = [PYTHON, "-m", "pip", "install", "-q", "--disable-pip-version-check"]
        offline = ["--no-index", "--no-deps", "--force-reinstall"]
        installed = subprocess.run([*pip, *offline, str(wheel)], check=False)
        print(f"{wheel.name}: exit {installed.returncode}")
        return installed.returncode


sys.exit(main())
