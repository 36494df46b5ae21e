"""The real libnftables in a process with many open files; it would end the process."""

import subprocess
import sys

MANY = """
import os, resource
from crishim.tools import nft
resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
nft.reserve_descriptors()
null = os.open("/dev/null", os.O_RDONLY)
while os.dup(null) < 2000:
    pass
table = nft.Nft()
table.run("table netdev crishim_many { }")
print(table.tables())
table.remove("netdev", "crishim_many")
print(table.tables())
"""


def test_tables_are_set_and_removed_with_two_thousand_files_open(network):
    done = subprocess.run([sys.executable, "-c", MANY], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n") == ["[('netdev', 'crishim_many')]", "[]", ""]
