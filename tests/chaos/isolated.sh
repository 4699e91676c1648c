#!/bin/sh
# sh tests/chaos/isolated.sh COMMAND…: in process and mount namespaces of its own, with a small disk in $CHAOS_DISK.
# Nothing that the run leaves behind outlives it, and what is left can be counted.
set -eu
megabytes=${CHAOS_DISK_MEGABYTES:-256}
if [ "${CHAOS_DISK:-}" = "" ]; then
  CHAOS_DISK=$(mktemp -d /tmp/chaos-XXXXXX)
  export CHAOS_DISK
  trap 'rmdir "$CHAOS_DISK"' EXIT
  user=
  [ "$(id -u)" = 0 ] || user="-U --map-current-user --keep-caps"
  # shellcheck disable=SC2086 # the options are words
  unshare $user -m -p --fork --mount-proc --kill-child sh "$0" "$@" || exit
  exit
fi
mount -t tmpfs -o "size=${megabytes}m,mode=755" chaos "$CHAOS_DISK"
# bubblewrap refuses capabilities that an ordinary user does not have.
[ "$(id -u)" = 0 ] || exec setpriv --ambient-caps=-all --inh-caps=-all "$@"
exec "$@"
