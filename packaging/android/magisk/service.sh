#!/system/bin/sh
# Run by Magisk late at each boot, as root in its own SELinux domain: the agent is root here, since nothing on such a
# device gives a service of another user its capabilities.
data=${IMPUSH_DATA:-/data/misc/impush}
program=${IMPUSH_PROGRAM:-/system/bin/impush}
export STATE_DIRECTORY="$data/state" RUNTIME_DIRECTORY="${IMPUSH_RUN:-/dev/impush}"
mkdir -p "$RUNTIME_DIRECTORY" && chmod 750 "$RUNTIME_DIRECTORY"
# What stops a start is tried again by the agent; a crash, after five seconds. 64, 77 and 78 need a person.
(
    while :; do
        "$program" --config "$data/impush.toml" run --retry=always </dev/null >/dev/null 2>&1
        case $? in 0 | 64 | 77 | 78) break ;; esac
        sleep 5
    done
) &
