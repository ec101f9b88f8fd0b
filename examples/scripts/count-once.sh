#!/bin/sh
# A job of cron that writes exactly once per day, however often cron, or a person, starts it.
#
#   17 3 * * *  cyolo  /usr/local/bin/count-once.sh nightly-runs
#
# The request id is the job and its day: the cluster applies it once and answers every repetition with the
# first result. So it is safe to start this on two machines, and to try again when nobody knows whether the
# write was applied. Which node is asked: CYOLOCTL_ENDPOINT and CYOLOCTL_CREDENTIALS, or CYOLOCTL_DATA_DIR.
set -eu

counter=${1:?usage: count-once.sh COUNTER}
tries=${TRIES:-10}
pause_s=${PAUSE_S:-6}

# Once, before the first attempt: a job that runs past midnight is still the one of the day on which it began.
id="count-once.$counter.${DAY:-$(date -u +%Y-%m-%d)}"

while :; do
  status=0
  value=$(cyoloctl counter incr "$counter" --request-id "$id") || status=$?
  case $status in
    0)
      printf '%s is %s\n' "$counter" "$value"
      exit 0
      ;;
    69 | 75 | 80) ;; # no node answered, not applied, or unknown: the same id again
    *) exit "$status" ;; # refused or wrong: the message on stderr says why, and trying again does not help
  esac
  tries=$((tries - 1))
  if [ "$tries" -le 0 ]; then
    printf 'not done: the same job may be started again today\n' >&2
    exit "$status"
  fi
  sleep "$pause_s"
done
