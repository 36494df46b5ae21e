#!/usr/bin/python3
"""Client of the node's process 1: `service NAME start|stop|restart|kill|crash|status`.

Exit status: 0 done (for `status`: ready), 2 wrong use, 3 not in that state, 5 not installed.
`kill` ends the main process with SIGKILL and it is started again at once; after `crash` it stays
down until `start`.
"""

import json
import socket
import sys


def main() -> int:
    """Send one request and print the answer."""
    if len(sys.argv) != 3:
        print(__doc__, file=sys.stderr)
        return 2
    with socket.socket(socket.AF_UNIX) as control:
        control.connect("/run/lab/control")
        control.sendall(json.dumps(sys.argv[1:]).encode() + b"\n")
        status, line = json.loads(control.makefile().readline())
    print(line)
    return int(status)


sys.exit(main())
