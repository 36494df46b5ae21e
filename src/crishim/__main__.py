"""Entry point of `crishim` and of `python -m crishim`."""

import os
import sys

# gRPC reads this once, when it is first imported. Its new event engines cost a relayed call two
# tenths of a millisecond more than the old pollers (bench/relay; grpcio 1.80 and 1.85). Naming an
# experiment that a version lacks makes it print an error, so there are only these two.
os.environ.setdefault("GRPC_EXPERIMENTS", "-event_engine_client,-event_engine_listener")

from crishim.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
