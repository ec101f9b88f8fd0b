#!/bin/sh
# Restarts the nodes of a cluster one after another, and never a second one before the first is well again.
#
#   rolling-restart.sh 'ssh m1 systemctl restart cyoloctl@n1' 'ssh m2 systemctl restart cyoloctl@n2' ...
#
# Each argument is the command that restarts one node. Before the first and after each of them the whole
# cluster must be healthy, as any node tells that answers: list several in CYOLOCTL_ENDPOINT, because one of
# them is away each time. When it does not become well, no further node is touched, and the exit status is
# that of `cyoloctl status --check`: 4, 69 or 75.
set -eu

[ "$#" -gt 0 ] || {
  printf 'usage: rolling-restart.sh COMMAND...\n' >&2
  exit 2
}
limit_s=${LIMIT_S:-120}

# Waits until the cluster is healthy.
wait_healthy() {
  deadline=$(($(date +%s) + limit_s))
  while :; do
    status=0
    told=$(cyoloctl status --check 2>&1) || status=$?
    [ "$status" -ne 0 ] || return 0
    if [ "$(date +%s)" -ge "$deadline" ]; then
      printf '%s\nnot healthy within %s s: stopped here\n' "$told" "$limit_s" >&2
      return "$status"
    fi
    sleep 1
  done
}

wait_healthy
for restart in "$@"; do
  printf 'restarting: %s\n' "$restart"
  sh -c "$restart"
  wait_healthy
done
printf 'restarted %s nodes; the cluster is healthy\n' "$#"
