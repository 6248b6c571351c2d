#!/usr/bin/env bash
# Measures the tables of docs/BENCHMARKS.md.
#
#   loadtest/tables.sh FOLDER [PART...]
#
# Each part writes its raw files into FOLDER, and a part whose files are there already is left out, so a run that was
# interrupted goes on where it was. Parts, with the time that they take on two cores:
#
#   steered    CPU per delivery, five rounds of 1,000, 10,000 and 15,000 streams (25 min)
#   burst      bursts of 50 events, 15,000 streams, steered (12 min)
#   plain      latency on plain loopback, 1,000, 10,000 and 15,000 streams (40 min)
#   waiting    a burst of 50 by one publisher that waits for each answer, 15,000 streams (17 min)
#   scenarios  idle, saturate, storm, churn, topics, mixed and slow (70 min)
#   fanfare    a storm with resume, and stalled readers, of Fanfare alone with 15,000 streams (15 min)
#   threads    where thread per connection stops (1 min)
#   scale      100,000 and 1,000,000 streams beside a bare loop; raises limits of the machine (25 min)
#   million    1,000,000 streams on each backend, plain and steered, and 2,500,000; raises limits (40 min)
#   tun        a client without sockets beside one with: 100,000 streams, three rounds in turn, then 1,000,000 and
#              4,000,000 without; raises limits (30 min)
#
# Without a part: all of them, in this order. The machine has to be quiet. `cargo xtask benchmarks` makes the document
# of the files; the folder is named in the first lines of docs/BENCHMARKS.md.in.
set -euo pipefail
cd "$(dirname "$0")/.."

folder=${1:?see the first lines of this file}
shift
[ $# -gt 0 ] || set -- steered burst plain waiting scenarios fanfare threads scale million tun
mkdir -p "$folder"

cargo build --quiet --release -p fanfare-server -p fanfare-load -p fanfare-axum --example load_server --bins
bin=${CARGO_TARGET_DIR:-target}/release
cores=(--server-cores 0 --client-cores 1)

# compare NAME OPTIONS...: all contenders, into NAME.json.
compare() {
  local file=$folder/$1.json
  shift
  [ ! -e "$file" ] || return 0
  "$bin/fanfare-load" compare --fanfare "$bin/fanfare" --fanfare-axum "$bin/examples/load_server" "${cores[@]}" \
    --quiet --json "$file.part" "$@" || true
  # A comparison in which some contender has no valid round ends with an error, and is a result.
  mv "$file.part" "$file"
}

# plotted NAME PLOTS OPTIONS...: the same, and some of its plots, which the document shows.
plotted() {
  local name=$1 plots=$2 plot scratch
  shift 2
  [ ! -e "$folder/$name.json" ] || return 0
  scratch=$(mktemp -d)
  compare "$name" "$@" --svg "$scratch"
  for plot in $plots; do mv "$scratch/$plot.svg" "$folder/"; done
  rm -r "$scratch"
}

steered() {
  plotted steered "cpu-15000 memory-15000" --connections 1000,10000,15000 -d 3s -r 5 --steered
}

burst() {
  compare steered-burst --connections 15000 -d 2s -r 25 --burst 50 --pipeline 50 --steered
}

# At a rate with which every contender keeps up.
plain() {
  compare plain-1000 --connections 1000 -d 3s -r 10
  plotted plain-large "latency-15000 last-subscriber" --connections 10000,15000 -d 5s -r 2
}

waiting() {
  compare waiting --connections 15000 -d 3s -r 50 --burst 50 --pipeline 1
}

# The rates, too, are such that every contender keeps up; `saturate` has none.
scenarios() {
  compare compare-idle --scenario idle --connections 5000 -d 3s
  compare compare-saturate --scenario saturate --connections 1000 -d 3s
  compare compare-storm --scenario storm --connections 5000 -d 4s -r 5 --patience 1s
  compare compare-churn --scenario churn --connections 5000 -d 4s -r 5
  compare compare-topics --scenario topics --connections 5000 -d 3s -r 500
  compare compare-mixed --scenario mixed --connections 5000 -d 4s -r 5
  compare compare-slow --scenario slow --connections 2000 -d 6s -r 20 -s 4000
}

fanfare() {
  local both=(--contenders fanfare-epoll,fanfare-io-uring --connections 15000)
  compare storm-15000 --scenario storm --resume "${both[@]}" -d 8s -r 5
  compare slow-15000 --scenario slow "${both[@]}" -d 10s -r 10
}

threads() {
  [ -e "$folder/refusal-threads.json" ] ||
    "$bin/fanfare-load" refusal threads -n 40000 --json "$folder/refusal-threads.json"
}

scale() {
  [ -e "$folder/at-scale-100000.json" ] || RESULTS=$folder loadtest/at-scale.sh 100000 5 --raise
  [ -e "$folder/at-scale-1000000.json" ] || RESULTS=$folder loadtest/at-scale.sh 1000000 1 --raise
}

# one_million FILE OPTIONS...: one run of million.sh, whose file is FILE. A run that is not valid is a result.
one_million() {
  local file=$folder/$1 scratch
  shift
  [ ! -e "$file" ] || return 0
  scratch=$(mktemp -d)
  RESULTS=$scratch loadtest/million.sh "$@" --raise || true
  mv "$scratch"/*.json "$file"
  rmdir "$scratch"
}

million() {
  local backend
  for backend in epoll io-uring; do
    one_million "million-1000000-$backend.json" 1000000 --backend "$backend"
    one_million "million-1000000-$backend-steered.json" 1000000 --backend "$backend" --steered
  done
  one_million million-2500000-epoll.json 2500000
}

tun() {
  local round
  for round in 1 2 3; do
    one_million "sockets-100000-$round.json" 100000 --steered
    one_million "tun-100000-$round.json" 100000 --steered --tun
  done
  one_million million-1000000-epoll-steered-tun.json 1000000 --steered --tun
  one_million million-4000000-epoll-tun.json 4000000 --tun --heartbeat 1h
}

for part in "$@"; do
  case $part in
    steered | burst | plain | waiting | scenarios | fanfare | threads | scale | million | tun) "$part" ;;
    *) echo "tables.sh: no part $part; see its first lines" >&2; exit 2 ;;
  esac
done
