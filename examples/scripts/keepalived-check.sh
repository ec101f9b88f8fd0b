#!/bin/sh
# Whether this machine may hold the shared address: 0 yes, anything else no. For keepalived:
#
#   vrrp_script cyoloctl {
#       script "/usr/local/bin/keepalived-check.sh http://127.0.0.1:8080 -d /var/lib/cyoloctl"
#       interval 2
#       timeout 2
#       fall 2
#       rise 2
#   }
#
# The node must know a leader, and its gateway must be ready. Other members' problems do not count: an address
# that moves for them helps nobody, so this is no `status --check`. Without the data directory, which only
# its owner may use, pass -e https://HOST:PORT --credentials FILE of a viewer.
set -eu

gateway=${1:?usage: keepalived-check.sh GATEWAY_URL [OPTIONS OF cyoloctl status]}
shift

# Silent: keepalived runs it every two seconds. What is wrong is in the exit status and in the node's log.
cyoloctl status --timeout 1s "$@" >/dev/null 2>&1
curl --fail --silent --max-time 1 --noproxy '*' "$gateway/readyz" >/dev/null
