#!/bin/sh
# Runs a program for a node's share of a dataset, on a mount and with a key of the user's own:
#
#     srun --ntasks-per-node=1 examples/slurm/task.sh street-signs python examples/share.py
#
# The program gets the dataset's folder as its last argument. A mount ends with the step that made it, so it is made in the
# step that needs it. The cache, on a disk of the node's own, stays for the next job.

DATASET=$1
shift

PLACE=/tmp/pictofs-$SLURM_JOB_ID
CACHE=/local/$(id -un)/pictofs

PICTOFS=pictofs

mkdir -p "$PLACE" || exit
"$PICTOFS" mount --cache-dir "$CACHE" "$PLACE" || exit
trap '"$PICTOFS" unmount --lazy "$PLACE"; rmdir "$PLACE"' EXIT

# By SLURM_PROCID and SLURM_NTASKS, which srun sets: together the nodes fetch the dataset once. It waits where the hourly
# limit is spent.
"$PICTOFS" warm --shard auto "$PLACE/datasets/$DATASET" || exit

"$@" "$PLACE/datasets/$DATASET"
