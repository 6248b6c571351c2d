#!/usr/bin/env bash
# The server's CPU per delivery beside a bare loop of sends, at COUNT streams.
#
#   loadtest/at-scale.sh [COUNT] [ROUNDS] [--raise]
#
# Both backends and `bare`, a fresh server for each run, in turn, ROUNDS times; all in one network namespace, with the
# server on core 0, the client on core 1, and the receivers' kernel work on core 1 too (as behind a network card).
# `bare` gets as many threads with descriptor tables as Fanfare has shards. It sends no heartbeats and sets no keepalive,
# so both are off in these rounds: without heartbeats the kernel would ask a million silent peers during the broadcasts.
# One more run of each backend, with both as shipped, says what they cost.
# Limits are checked, raised and put back as by million.sh.
set -euo pipefail
cd "$(dirname "$0")/.."

name=at-scale.sh count= rounds= raise=no
while [ $# -gt 0 ]; do
  case $1 in
    --raise) raise=yes ;;
    [0-9]*) if [ -z "$count" ]; then count=$1; else rounds=$1; fi ;;
    *) echo "$name: unknown argument $1; see its first lines" >&2; exit 2 ;;
  esac
  shift
done
count=${count:-100000} rounds=${rounds:-3}
. loadtest/machine.sh

# Before the limits are raised: they are the whole machine's.
cargo build --quiet --release -p fanfare-server -p fanfare-load
load=${CARGO_TARGET_DIR:-target}/release
preflight
results=${RESULTS:-loadtest/results/$(date +%F)-$(nproc)-cores}
mkdir -p "$results"
make_namespace

# A broadcast comes to its end before the next one is due.
events=5 interval=$((2 + count / 60000))
run_seconds=$((60 + count / 2000 + events * interval * 2))
compare() { # rounds, contenders, options of fanfare, file
  bounded $((run_seconds * 3 * $1)) "$load/fanfare-load" compare --fanfare "$load/fanfare" \
    --fanfare-options "--shards $shards --head-time 60s $3" --bare-threads "$shards" --contenders "$2" \
    --connections "$count" --rounds "$1" --size 200 --rate "$(awk "BEGIN { print 1 / $interval }")" \
    --duration $((events * interval))s --connect-rate 100000 --connect-burst 4000 --head-timeout 60s --patience 60s \
    --least-memory "$least_memory" --steered --server-cores 0 --client-cores 1 --json "$4"
}
say "$count streams, $shards shards, $events events $interval s apart"
code=0
compare "$rounds" bare,fanfare-epoll,fanfare-io-uring "--heartbeat 1day --keepalive 9h" "$results/at-scale-$count.json" || code=$?
[ "$code" -lt 2 ] || exit "$code"
say "the same with heartbeats:"
compare 1 fanfare-epoll,fanfare-io-uring "" "$results/at-scale-$count-heartbeats.json" || code=$?
exit "$code"
