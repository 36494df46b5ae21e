"""Entry point of `crishim` and of `python -m crishim`."""

import os
import sys

# gRPC reads this once, when it is first imported. Its new event engines cost a relayed call a tenth
# of a millisecond more than the old poller (bench/relay, grpcio 1.80); set it to "" to have them.
os.environ.setdefault(
    "GRPC_EXPERIMENTS", "-event_engine_client,-event_engine_listener,-event_engine_dns"
)

from crishim.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
