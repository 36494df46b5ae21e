#!/bin/sh
# Stands before a program of the node; see __init__.py. Its name is the program's.
points=/run/failpoints
name=${0##*/}
real=$(PATH=/usr/sbin:/usr/bin:/sbin:/bin command -v "$name") || exit 127
point=$name
case " $* " in *" --help "*) exec "$real" "$@" ;; esac
case $name in
    runc)
        for word; do
            case $word in
                checkpoint | restore | create | start | kill | delete | state)
                    point=runc-$word
                    break
                    ;;
            esac
        done
        ;;
    criu)
        case ${CRIU_CONFIG_FILE:-} in
            */dumps/*) point=criu-dump ;;
            */restores/*) point=criu-restore ;;
        esac
        ;;
esac

stop() {
    echo $$ > "$points/$1.new"
    mv "$points/$1.new" "$points/$1.reached"
    read -r _ < "$points/$1"
}

[ ! -p "$points/$point.before" ] || stop "$point.before"
[ -p "$points/$point.after" ] || exec "$real" "$@"
"$real" "$@"
status=$?
[ ! -p "$points/$point.after" ] || stop "$point.after"
exit $status
