#!/usr/bin/env bash
# Measures the tables of docs/BENCHMARKS.md.
#
#   loadtest/tables.sh FOLDER [PART...]
#
# Each part writes its raw files into FOLDER, and a part whose files are there already is left out, so a run that was
# interrupted goes on where it was. Parts, with the time that they take on two cores:
#
#   steered    CPU per delivery, five rounds of 1,000, 10,000 and 15,000 streams (40 min)
#   burst      bursts of 50 events, 15,000 streams, steered (10 min)
#   plain      latency on plain loopback, 1,000, 10,000 and 15,000 streams (40 min)
#   waiting    a burst of 50 by one publisher that waits for each answer, 15,000 streams (15 min)
#   scenarios  idle, saturate, storm, churn, topics, mixed and slow (70 min)
#   threads    where thread per connection stops (1 min)
#   scale      100,000 and 1,000,000 streams beside a bare loop; raises limits of the machine (25 min)
#   million    1,000,000 streams on each backend, and idle; raises limits of the machine (15 min)
#
# Without a part: all of them, in this order. The machine has to be quiet. `cargo xtask benchmarks` makes the document
# of the files; the folder is named in the first lines of docs/BENCHMARKS.md.in.
set -euo pipefail
cd "$(dirname "$0")/.."

folder=${1:?see the first lines of this file}
shift
[ $# -gt 0 ] || set -- steered burst plain waiting scenarios threads scale million
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

steered() {
  compare steered --connections 1000,10000,15000 -d 3s -r 5 --steered --svg "$folder"
}

burst() {
  compare steered-burst --connections 15000 -d 2s -r 25 --burst 50 --pipeline 50 --steered
}

plain() {
  compare plain --connections 1000,10000,15000 -d 3s -r 10 --svg "$folder"
}

waiting() {
  compare waiting --connections 15000 -d 3s -r 50 --burst 50 --pipeline 1
}

scenarios() {
  compare compare-idle --scenario idle --connections 5000 -d 3s
  compare compare-saturate --scenario saturate --connections 1000 -d 3s
  compare compare-storm --scenario storm --connections 5000 -d 3s -r 10 --patience 1s
  compare compare-churn --scenario churn --connections 5000 -d 4s -r 10
  compare compare-topics --scenario topics --connections 5000 -d 3s -r 500
  compare compare-mixed --scenario mixed --connections 5000 -d 3s -r 10
  compare compare-slow --scenario slow --connections 2000 -d 4s -r 50 -s 4000
}

threads() {
  [ -e "$folder/refusal-threads.json" ] ||
    "$bin/fanfare-load" refusal threads -n 40000 --json "$folder/refusal-threads.json"
}

scale() {
  [ -e "$folder/at-scale-100000.json" ] || RESULTS=$folder loadtest/at-scale.sh 100000 5 --raise
  [ -e "$folder/at-scale-1000000.json" ] || RESULTS=$folder loadtest/at-scale.sh 1000000 1 --raise
}

million() {
  local backend
  for backend in epoll io-uring; do
    [ -e "$folder/million-1000000-$backend.json" ] ||
      RESULTS=$folder loadtest/million.sh 1000000 --raise --backend "$backend"
  done
}

for part in "$@"; do
  case $part in
    steered | burst | plain | waiting | scenarios | threads | scale | million) "$part" ;;
    *) echo "tables.sh: no part $part; see its first lines" >&2; exit 2 ;;
  esac
done
