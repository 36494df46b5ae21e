#!/bin/sh
# Stands in for runc for one restored container, in whose directory it lies. containerd's shim calls
# it as it calls runc, for as long as the container lives: with or without a crishim daemon.
#   create  restores the container from its checkpoint, as long as the file `pending` is there;
#   start   has nothing left to do after such a create;
#   others  are runc's, with the very same arguments.
# A container whose checkpoint is used up is never created again: that would be a cold start.
set -u
here=${0%/*}
IFS= read -r runc < "$here/runc" || exit 1

verb= at=0 log= option=
for word; do
    at=$((at + 1))
    case $option in
        --log) log=$word; option=; continue ;;
        ?*) option=; continue ;;
    esac
    case $word in
        --root | --log | --log-format | --rootless | --criu) option=$word ;;
        -*) ;;
        *) verb=$word; break ;;
    esac
done

# fail MESSAGE: report as runc does, in JSON to --log, where the shim looks for it.
fail() {
    [ -z "$log" ] || printf '{"level":"error","msg":"%s","time":"%s"}\n' \
        "$1" "$(date -u +%Y-%m-%dT%H:%M:%SZ)" >> "$log"
    echo "$1" >&2
    exit 1
}

# restore ARGS: the arguments of `runc create` with the verb at place $at exchanged.
restore() {
    total=$# i=0
    while [ "$i" -lt "$total" ]; do
        word=$1 i=$((i + 1))
        shift
        case $i:$word in
            "$at:create")
                set -- "$@" restore --detach --no-subreaper
                while IFS= read -r option; do set -- "$@" "$option"; done < "$here/options"
                ;;
            *:--no-new-keyring) ;;
            *) set -- "$@" "$word" ;;
        esac
    done
    CRIU_CONFIG_FILE=$here/criu.conf "$runc" "$@"
}

case $verb in
    create)
        [ -e "$here/pending" ] || fail "crishim: the checkpoint of this container was restored before; create a new container"
        # Written first: once the processes run nothing may fail any more.
        true > "$here/restored" || fail "crishim: nothing can be written next to the checkpoint of this container"
        restore "$@" && exit 0
        rm -f "$here/restored"
        exit 1
        ;;
    start)
        if [ -e "$here/restored" ]; then
            rm -f "$here/restored"
            exit 0
        fi
        ;;
esac
exec "$runc" "$@"
