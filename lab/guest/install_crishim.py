#!/usr/bin/python3
"""Build crishim's wheel from the checkout at /src and install it into /opt/crishim."""

import pathlib
import subprocess
import sys
import tempfile

VENV = pathlib.Path("/opt/crishim")
BUILD_VENV = pathlib.Path("/opt/crishim-build")


def main() -> int:
    """Build, install over what was there, say what happened."""
    with tempfile.TemporaryDirectory() as out:
        build = [BUILD_VENV / "bin/python", "-m", "hatchling", "build", "-t", "wheel", "-d", out]
        built = subprocess.run(build, cwd="/src", capture_output=True, text=True, check=False)
        if built.returncode != 0:
            print(built.stderr.strip())
            return built.returncode
        (wheel,) = pathlib.Path(out).glob("*.whl")
        pip = [VENV / "bin/python", "-m", "pip", "install", "-q", "--disable-pip-version-check"]
        offline = ["--no-index", "--no-deps", "--force-reinstall"]
        installed = subprocess.run([*pip, *offline, wheel], check=False)
        print(f"{wheel.name}: exit {installed.returncode}")
        return installed.returncode


sys.exit(main())
