#!/usr/bin/env bash
# Holds COUNT live subscribers on this one machine, client included, and delivers broadcasts to every one.
#
#   loadtest/million.sh [COUNT] [--backend epoll|io-uring] [--raise]
#
# It checks every limit first and names each that is too low, with the command that raises it. With --raise (as root) it
# raises them itself, and puts them back at the end. Server and client run in a network namespace of their own; the
# server runs as nobody, under the descriptor limit that it finds.
set -euo pipefail
cd "$(dirname "$0")/.."

count=1000000 backend=epoll raise=no
while [ $# -gt 0 ]; do
  case $1 in
    --raise) raise=yes ;;
    --backend) backend=$2; shift ;;
    [0-9]*) count=$1 ;;
    *) echo "million.sh: unknown argument $1; see its first lines" >&2; exit 2 ;;
  esac
  shift
done

say() { echo "million.sh: $*" >&2; }
namespace=fanfare-million
files=$(mktemp -d)
server=
undo=()

finish() {
  if [ -n "$server" ] && kill -0 "$server" 2>/dev/null; then
    kill "$server"
    for _ in $(seq 100); do kill -0 "$server" 2>/dev/null || break; sleep 0.1; done
  fi
  ip netns del "$namespace" 2>/dev/null || true
  for setting in "${undo[@]}"; do sysctl -qw "$setting" || true; done
  rm -rf "$files"
}
trap finish EXIT
trap 'exit 130' INT TERM

# --- Preflight: what COUNT connections, both ends here, need. -------------------------------------------------------
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

[ "$(id -u)" = 0 ] || { say "network namespaces need root"; exit 1; }
descriptors=$(ulimit -n)
shards=$((count / (descriptors * 85 / 100) + 1))
pages=$((count * 3))
need fs.file-max "$(sysctl -n fs.file-max)" $((count * 2 + 200000)) $((count * 2 + 1000000)) \
  "two open sockets a connection"
need net.ipv4.tcp_mem "$(sysctl -n net.ipv4.tcp_mem | third)" $((count * 2)) "$pages $pages $((pages + 1000000))" \
  "a broadcast holds at least one page in each receiver's socket until it is read"
need net.core.netdev_max_backlog "$(sysctl -n net.core.netdev_max_backlog)" 10000 1000000 \
  "packets that wait for the other core are dropped and come again 200 ms later"
need net.ipv4.tcp_child_ehash_entries "$(sysctl -n net.ipv4.tcp_child_ehash_entries)" "$count" 2097152 \
  "the namespace's own table of connections; short chains keep a send as fast as with few"
if conntrack=$(sysctl -n net.netfilter.nf_conntrack_max 2>/dev/null); then
  need net.netfilter.nf_conntrack_max "$conntrack" $((count * 2)) $((count * 2 + 100000)) "each connection is tracked"
fi
available=$(awk '/^MemAvailable/ { print int($2 / 1024) }' /proc/meminfo)
wanted=$((count * 13 / 1024))
if [ "$available" -lt "$wanted" ]; then
  say "memory: $available MiB are available, about $wanted are needed (9 KB a pair, a page each during a broadcast)"
  low=1
fi
if [ "$low" = 1 ]; then
  say "raise these, or run again with --raise, which puts them back afterwards"
  exit 1
fi

results=loadtest/results/$(date +%F)-$(nproc)-cores
mkdir -p "$results"
cargo build --quiet --release -p fanfare-server -p fanfare-load

# --- The namespace, the server, the load. ---------------------------------------------------------------------------
ip netns add "$namespace"
inside=(ip netns exec "$namespace")
"${inside[@]}" ip link set lo up
"${inside[@]}" sysctl -qw net.ipv4.ip_local_port_range="1024 65535" net.core.somaxconn=65535
# Where nobody may read it, whatever the rights of the checkout.
install -m 755 -t "$files" target/release/fanfare
chmod 755 "$files"
"${inside[@]}" setpriv --reuid 65534 --regid 65534 --clear-groups \
  "$files/fanfare" serve --listen 127.0.0.1:8844 --backend "$backend" --shards "$shards" >"$files/said" 2>&1 &
server=$!
for _ in $(seq 100); do grep -q listening "$files/said" && break; sleep 0.1; done
grep -q listening "$files/said" || { cat "$files/said" >&2; exit 1; }
say "$count subscribers, $shards shards of at most $descriptors descriptors, server $server as nobody"

"${inside[@]}" target/release/fanfare-load idle -n "$count" --server-pid "$server" --events 3 --rate 0.05 \
  --connect-rate 100000 --connect-burst 4000 --head-timeout 60s --patience 60s \
  --json "$results/million-$count-$backend.json"
say "the server at the end:"
grep -E '^(VmRSS|Threads)' "/proc/$server/status" >&2
