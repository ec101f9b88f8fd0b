#!/bin/sh
# Saves the replicated state to a file, verifies it, and keeps the newest ones.
#
#   30 2 * * *  cyolo  /usr/local/bin/backup.sh /backup 28
#
# PASSPHRASE_FILE: also saves the token keys, sealed with what is in that file (closed to others). A file
# appears under its name only when it is whole; old ones go only after the new one was verified, so a disk
# that is full, or a cluster without a leader, costs no backup. Files of other names are left alone.
set -eu

directory=${1:?usage: backup.sh DIRECTORY KEEP}
keep=${2:?usage: backup.sh DIRECTORY KEEP}
case $keep in
  '' | 0 | *[!0-9]*)
    printf 'KEEP is %s: use a number from 1\n' "$keep" >&2
    exit 2
    ;;
esac

file="$directory/cyoloctl-$(date -u +%Y%m%dT%H%M%SZ).snapshot"
if [ -n "${PASSPHRASE_FILE:-}" ]; then
  cyoloctl snapshot save "$file" --passphrase-file "$PASSPHRASE_FILE" --timeout 60s
else
  cyoloctl snapshot save "$file" --timeout 60s
fi
cyoloctl snapshot inspect "$file"

# The names hold the time, so their order is that of their age.
set -- "$directory"/cyoloctl-????????T??????Z.snapshot
while [ "$#" -gt "$keep" ]; do
  rm -- "$1"
  printf 'removed %s\n' "$1"
  shift
done
