#!/bin/sh
# CRIU runs this at each of its steps of a restore. Right before it lets the processes go, the daemon
# puts back into them what CRIU drops: it is asked here, and waited for. A daemon that is gone or
# takes too long is not waited for: the restore goes on, and `late` says so to whoever finishes it.
[ "$CRTOOLS_SCRIPT_ACTION" = pre-resume ] || exit 0
here=${0%/*}
timeout 10 sh -c 'echo "$1" > "$2/ask" && read -r line < "$2/told"' sh "$CRTOOLS_INIT_PID" "$here" ||
    : > "$here/late"
exit 0
