#!/bin/sh
# Mounts the datasets before a job starts, on each of its nodes, for all users. The mount stays for the jobs that follow,
# with its cache. In slurm.conf: Prolog=/etc/slurm/prolog.d/pictofs.sh, which slurmd runs as root.

PLACE=/mnt/picto
KEY=/etc/pictofs/key
CACHE=/local/pictofs  # a disk of the node's own
LOCK=/run/pictofs-prolog.lock

PICTOFS=/usr/local/bin/pictofs

mount_it() {
    said=$("$PICTOFS" mount --allow-other --api-key-file "$KEY" --cache-dir "$CACHE" "$PLACE" 2>&1 9>&-)
}

"$PICTOFS" status "$PLACE" > /dev/null 2>&1

# 4: nothing is mounted there. Else it may hang, and mkdir with it.
case $? in
    0) exit 0 ;;
    4) mkdir -p "$PLACE" ;;
esac

mount_it
failed=$?

# 5: a job that starts at the same moment was faster, or a mount is there that hangs. One job at a time looks again, or it
# would take away what another has just mounted.
if [ $failed = 5 ]; then
    exec 9> "$LOCK"
    flock 9

    "$PICTOFS" status "$PLACE" > /dev/null 2>&1 9>&-

    # 1: it hangs. 4: it is being mounted.
    if [ $? = 1 ]; then
        logger -t pictofs "$PLACE hangs and is mounted anew"
        "$PICTOFS" unmount --lazy "$PLACE" > /dev/null 2>&1 9>&-
        mount_it
        failed=$?
    fi
fi

case $failed in
    0 | 5) ;;
    *) logger -t pictofs "$said" ;;
esac

# Anything but 0 would drain the node, which an API that is away is no reason for. The job looks for itself.
exit 0
