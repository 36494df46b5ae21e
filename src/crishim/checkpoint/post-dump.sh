#!/bin/sh
# CRIU runs this at each of its steps. For an open file whose name was removed, and which has others,
# it makes a hard link and removes it before it ends: here they are listed while they are there, as
# inode and path below the upper directory. The processes are frozen, and no daemon is needed.
set -eu
[ "$CRTOOLS_SCRIPT_ACTION" = post-dump ] || exit 0
here=${0%/*}
IFS= read -r upper < "$here/upper"
cd "$upper"
exec find . -xdev -type f -name 'link_remap.*' -exec ls -id {} + > "$here/links"
