# Sourced by million.sh and at-scale.sh: the limits of the machine, a network namespace, and the way back.
#
# Before: `name` of the script, `count` of streams, `raise` (yes or no), `sockets` of each stream on this machine (2
# where it is not said). Whatever way the script ends, what runs in the namespace is ended, the namespace goes, and
# raised limits are put back.

say() { echo "$name: $*" >&2; }

[ "$(id -u)" = 0 ] || { say "network namespaces need root"; exit 1; }
namespace=fanfare-load
inside=(ip netns exec "$namespace")
files=$(mktemp -d)
undo=()
made=no
sockets=${sockets:-2}

finish() {
  trap '' INT TERM
  if [ "$made" = yes ]; then
    for signal in TERM KILL; do
      # A namespace that has gone has no processes.
      ip netns pids "$namespace" 2>/dev/null | xargs -r kill -s "$signal" 2>/dev/null || true
      for _ in $(seq 150); do [ -n "$(ip netns pids "$namespace" 2>/dev/null)" ] || break; sleep 0.1; done
    done
    ip netns del "$namespace" 2>/dev/null || true
  fi
  for setting in "${undo[@]}"; do sysctl -qw "$setting" || true; done
  rm -rf "$files"
}
trap finish EXIT
trap 'exit 130' INT TERM

low=0
need() { # name, value it has, least value, value to set, reason
  if [ "$2" -ge "$3" ]; then return; fi
  say "$1 is $2, too low: $5"
  say "  sysctl -w $1=\"$4\""
  if [ "$raise" = yes ]; then
    undo=("$1=$(sysctl -n "$1")" "${undo[@]}")
    sysctl -qw "$1=$4"
  else
    low=1
  fi
}
third() { awk '{ print $3 }'; }

# Names what COUNT connections, both ends here, need; ends the script where something is missing.
preflight() {
  local pages=$((count * 3)) buckets=65536
  while [ "$buckets" -lt $((count * sockets)) ] && [ "$buckets" -lt 16777216 ]; do buckets=$((buckets * 2)); done
  need fs.file-max "$(sysctl -n fs.file-max)" $((count * sockets + 200000)) $((count * sockets + 1000000)) \
    "$sockets open sockets a connection"
  need fs.epoll.max_user_watches "$(sysctl -n fs.epoll.max_user_watches)" $((count * sockets + 100000)) \
    $((count * sockets + 1000000)) "each end that is a socket is watched"
  need net.ipv4.tcp_mem "$(sysctl -n net.ipv4.tcp_mem | third)" $((count * sockets)) "$pages $pages $((pages + 1000000))" \
    "a broadcast is accounted as a page in each receiver's socket until it is read"
  need net.core.netdev_max_backlog "$(sysctl -n net.core.netdev_max_backlog)" "$count" $((count * 2)) \
    "packets that wait for the other core are dropped and come again 200 ms later"
  need net.ipv4.tcp_child_ehash_entries "$(sysctl -n net.ipv4.tcp_child_ehash_entries)" "$buckets" "$buckets" \
    "the namespace's own table of sockets; short chains keep a send as fast as with few"
  if [ "$shards" -gt "$most_shards" ]; then
    local wanted_descriptors=$((count * 100 / 85 / (most_shards - 1) + 100))
    if [ "$wanted_descriptors" -lt 20000 ]; then wanted_descriptors=20000; fi
    say "ulimit -n is $descriptors, too low: each shard has a table of so many, so $count streams need $shards shards, $most_shards are the most"
    say "  ulimit -n $wanted_descriptors"
    # It is this script's and ends with it, so nothing is to be put back.
    if [ "$raise" = yes ] && ulimit -n "$wanted_descriptors"; then count_shards; else low=1; fi
  fi
  local conntrack
  if conntrack=$(sysctl -n net.netfilter.nf_conntrack_max 2>/dev/null); then
    need net.netfilter.nf_conntrack_max "$conntrack" $((count * 2)) $((count * 2 + 100000)) "each connection is tracked"
  fi
  local available wanted
  available=$(awk '/^MemAvailable/ { print int($2 / 1024) }' /proc/meminfo)
  wanted=$((count * pair_bytes / 1048576 + least_memory))
  if [ "$available" -lt "$wanted" ]; then
    say "memory: $available MiB are available, $wanted are needed: $pair_bytes bytes a pair, and $least_memory MiB to spare"
    low=1
  fi
  if [ "$low" = 1 ]; then
    say "raise what is too low, or run again with --raise, which puts it back afterwards"
    exit 1
  fi
}
# Both ends of an idle pair: 8,340 bytes of the kernel's slab, 58 of the server's, at most 170 of the client's. What a
# broadcast adds is not foreseen but watched: the run ends when only `least_memory` MiB are left. A client without sockets
# leaves half of the kernel's, and has some 50 bytes more itself.
pair_bytes=$((sockets == 2 ? 8600 : 4700)) least_memory=1024
# A thread each; the loop of `bare` takes no more than 1,024, and long before that the scheduler is measured.
most_shards=256
count_shards() {
  descriptors=$(ulimit -n)
  if [ "$descriptors" = unlimited ]; then
    descriptors=$(sysctl -n fs.nr_open)
    say "ulimit -n is unlimited: a table ends at fs.nr_open, $descriptors"
  fi
  # A hash spreads the connections over the shards, so no table is planned to be full.
  shards=$((count / (descriptors * 85 / 100) + 1))
}
count_shards

make_namespace() {
  if ip netns list | grep -q "^$namespace\b"; then
    say "the namespace $namespace exists: another run is under way, or else: ip netns del $namespace"
    exit 1
  fi
  ip netns add "$namespace"
  made=yes
  "${inside[@]}" ip link set lo up
  "${inside[@]}" sysctl -qw net.ipv4.ip_local_port_range="1024 65535" net.core.somaxconn=65535
}

# Runs a command in the namespace for at most so many seconds. It waits in the background, so that the traps above
# need not wait for it.
bounded() { # seconds, command...
  "${inside[@]}" timeout -k 60 "$@" &
  wait "$!"
}
