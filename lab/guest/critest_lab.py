#!/usr/bin/python3
"""Run critest as the lab's images allow: `critest-lab [ENDPOINT] [CRITEST-ARGS...]`.

ENDPOINT is a socket's path or unix:// address; crishim's is the default. Exit status is
critest's.
"""

import os
import sys

DEFAULT = "/run/crishim/crishim.sock"


def main() -> None:
    """Become critest."""
    arguments = sys.argv[1:]
    endpoint = DEFAULT
    if arguments and not arguments[0].startswith("-"):
        endpoint = arguments.pop(0)
    address = endpoint if "://" in endpoint else f"unix://{endpoint}"
    fixed = [f"--runtime-endpoint={address}", f"--image-endpoint={address}", "--config=/dev/null"]
    os.execvp("critest", ["critest", *fixed, "--ginkgo.no-color", *arguments])


main()
