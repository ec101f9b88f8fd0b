#!/bin/sh
# Replaces a node whose machine is lost by a new one, under a new name: a name is never used again.
#
#   ON_NEW='ssh m4' replace-node.sh n2 n4 10.0.0.4:7700 /var/lib/cyoloctl
#
# Runs where the cluster is asked as an operator: CYOLOCTL_ENDPOINT and CYOLOCTL_CREDENTIALS, or
# CYOLOCTL_DATA_DIR. ON_NEW: what runs a command on the new machine; empty: this is the new machine. The join
# token goes through a pipe, into no file and no list of processes. Safe to repeat up to the join.
set -eu

[ "$#" -eq 4 ] || {
  printf 'usage: replace-node.sh OLD NEW HOST:PORT DIRECTORY\n' >&2
  exit 2
}
old=$1 new=$2 address=$3 directory=$4
limit_s=${LIMIT_S:-120}

# The words of the command, each as one word for a shell on the other side too.
on_new() {
  # shellcheck disable=SC2086  # words of a command, and none where it is empty
  ${ON_NEW:-env} "$@"
}

# First the old one goes: it counts as a voter that is away, until it does not. Refused (4) where the others
# are no majority; nothing has changed then. 3: it is gone already.
status=0
cyoloctl member remove "$old" --yes || status=$?
case $status in
  0 | 3) ;;
  *) exit "$status" ;;
esac

cyoloctl member invite --name "$new" |
  on_new cyoloctl node join -d "$directory" --name "$new" --listen "$address" --token-file -
on_new cyoloctl node start -d "$directory" --background

# A learner until it has caught up, then a voter.
deadline=$(($(date +%s) + limit_s))
until cyoloctl member show "$new" -o json | grep -Eq '"role": "(follower|leader)"'; do
  if [ "$(date +%s)" -ge "$deadline" ]; then
    printf '%s is no voter after %s s: see cyoloctl status\n' "$new" "$limit_s" >&2
    exit 75
  fi
  sleep 1
done
printf '%s replaces %s\n' "$new" "$old"
