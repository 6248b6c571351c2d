#!/usr/bin/env bash
# Holds COUNT live subscribers on this one machine, client included, and delivers broadcasts to every one.
#
#   loadtest/million.sh [COUNT] [--backend epoll|io-uring|bare] [--steered] [--tun] [--heartbeat TIME] [--raise]
#
# With --backend bare a bare loop of sends takes the server's place, with a descriptor table and a thread for each of its
# shards, in the same arrangement. It sends no heartbeats, so compare it with a server that has few: --heartbeat 9h.
# With --steered the server has core 0, and the client and the receivers' kernel work have core 1, as behind a network
# card: the server's CPU is then its own. Without it both share the cores, and a send includes the receiver's work.
# With --tun the client has no sockets: it speaks TCP itself, over a TUN device in the namespace, so the kernel holds the
# server's half alone. --steered then gives the server's core what its kernel receives, the acknowledgments.
# --heartbeat is the server's: with millions of streams, the heartbeats of 20 seconds are most of what an idle server
# and its client do, and leave little for openings. The kernel's keepalive then takes their place: 64,000 packets a second
# at four million streams. So --heartbeat sets both to the same time; the server takes at most 9h.
# It checks every limit first and names each that is too low, with the command that raises it. With --raise (as root) it
# raises them itself, and puts them back at the end. Server and client run in a network namespace of their own; the
# server runs as nobody, under the descriptor limit that it finds. When 1 GiB of memory is left the run ends and says
# how far it came.
set -euo pipefail
cd "$(dirname "$0")/.."

name=million.sh count=1000000 backend=epoll raise=no steered=no tun=no heartbeat=()
while [ $# -gt 0 ]; do
  case $1 in
    --raise) raise=yes ;;
    --steered) steered=yes ;;
    --tun) tun=yes ;;
    --heartbeat) heartbeat=(--heartbeat "$2" --keepalive "$2"); shift ;;
    --backend) backend=$2; shift ;;
    [0-9]*) count=$1 ;;
    *) echo "$name: unknown argument $1; see its first lines" >&2; exit 2 ;;
  esac
  shift
done
[ "$tun" = no ] || sockets=1
. loadtest/machine.sh

# Before the limits are raised: they are the whole machine's.
cargo build --quiet --release -p fanfare-server -p fanfare-load
load=${CARGO_TARGET_DIR:-target}/release
preflight
results=${RESULTS:-loadtest/results/$(date +%F)-$(nproc)-cores}
mkdir -p "$results"
make_namespace

host=127.0.0.1 open=()
if [ "$tun" = yes ]; then
  # Packets of a TUN device do not reach loopback's own network. It is the namespace's only other way in.
  "${inside[@]}" ip address add 10.63.0.1/32 dev lo
  host=10.63.0.1 open=(--open)
fi

# Where nobody may read it, whatever the rights of the checkout.
install -m 755 -t "$files" "$load/fanfare" "$load/fanfare-load"
chmod 755 "$files"
case $backend in
  bare)
    serve=(fanfare-load baseline bare --host "$host" --port 8844 --set "arguments+=--threads $shards")
    dialect=(--server plain)
    ;;
  *)
    serve=(fanfare serve --listen "$host:8844" "${open[@]}" --backend "$backend" --shards "$shards" --head-time 60s
      "${heartbeat[@]}")
    dialect=()
    ;;
esac
"${inside[@]}" setpriv --reuid 65534 --regid 65534 --clear-groups "$files/${serve[0]}" "${serve[@]:1}" >"$files/said" 2>&1 &
server=$!
is_up() { grep -qE 'listening|bare at' "$files/said"; }
for _ in $(seq 100); do is_up && break; sleep 0.1; done
is_up || { cat "$files/said" >&2; exit 1; }
say "$count subscribers, $shards shards of at most $descriptors descriptors, server $server as nobody"

arrangement=()
[ "$tun" = no ] || arrangement=(--tun load)
case $steered-$tun in
  yes-no) arrangement=(--steered --server-cores 0 --client-cores 1) ;;
  yes-yes)
    arrangement=(--tun load --threads 1 --server-cores 0 --client-cores 1)
    "${inside[@]}" ip tuntap add load0 mode tun vnet_hdr
    "${inside[@]}" sh -c 'echo 1 >/sys/class/net/load0/queues/rx-0/rps_cpus'
    ;;
esac
suffix=$([ "$steered" = no ] || echo -steered)$([ "$tun" = no ] || echo -tun)

# The idle server is looked at 20 s after the last connect: until then the kernel sends again what the clients' core was too
# busy to acknowledge. The broadcasts must not overlap: each takes both cores about ten seconds a million.
code=0
bounded $((300 + count / 2000)) "$load/fanfare-load" idle -n "$count" --url "http://$host:8844" "${dialect[@]}" --server-pid "$server" --events 3 --settle 20s \
  --rate "$(awk "BEGIN { print 50000 / ($count + 50000) }")" --duration 20s \
  --connect-rate 100000 --connect-burst 4000 --head-timeout 60s --patience 60s --least-memory "$least_memory" \
  "${arrangement[@]}" --json "$results/million-$count-$backend$suffix.json" || code=$?
say "the server at the end:"
grep -E '^(VmRSS|Threads)' "/proc/$server/status" >&2
exit "$code"
