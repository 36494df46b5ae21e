#!/bin/sh
# CRIU runs this at each of its steps. For an open file whose name was removed, and which has others,
# it makes a hard link and removes it before it ends: here they are listed while they are there, as
# inode and path, for each directory that the archive takes along. The processes are frozen, and no
# daemon is needed.
set -eu
[ "$CRTOOLS_SCRIPT_ACTION" = post-dump ] || exit 0
here=${0%/*}
number=0
while IFS= read -r place; do
    cd "$place"
    find . -xdev -type f -name 'link_remap.*' -exec ls -id {} + > "$here/links.$number"
    number=$((number + 1))
done < "$here/places"
