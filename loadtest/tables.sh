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
#   fanfare    a storm with resume, and stalled readers, of Fanfare alone with 15,000 streams (20 min)
#   threads    where thread per connection stops (1 min)
#   scale      100,000 and 1,000,000 streams beside a bare loop; raises limits of the machine (50 min)
#   million    1,000,000 streams on each backend, steered; raises limits (16 min)
#   tun        a client without sockets: beside one with sockets, 100,000 streams and three rounds in turn, then
#              4,000,000 of Fanfare and of a bare loop; raises limits (35 min)
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

# measured COMMAND...: a run that is not valid (code 1) is a result. One that was interrupted or could not start ends all.
measured() {
  local code=0
  "$@" || code=$?
  [ "$code" -le 1 ] || exit "$code"
}

# compare NAME OPTIONS...: all contenders, into NAME.json.
compare() {
  local file=$folder/$1.json
  shift
  [ ! -e "$file" ] || return 0
  measured "$bin/fanfare-load" compare --fanfare "$bin/fanfare" --fanfare-axum "$bin/examples/load_server" \
    "${cores[@]}" --quiet --json "$file.part" "$@"
  mv "$file.part" "$file"
}

# plotted NAME PLOTS OPTIONS...: the same, and some of its plots, which the document shows.
plotted() {
  local name=$1 plots=$2 plot scratch
  shift 2
  [ ! -e "$folder/$name.json" ] || return 0
  scratch=$(mktemp -d)
  compare "$name.plotted" "$@" --svg "$scratch"
  # The file gets its name last: it says that the part is there.
  for plot in $plots; do mv "$scratch/$plot.svg" "$folder/"; done
  mv "$folder/$name.plotted.json" "$folder/$name.json"
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
  # Less than 16 KiB are read ahead, so what the stalled do not read waits at the server.
  compare slow-laggards-15000 --scenario slow "${both[@]}" -d 24s -r 5 -s 4000 --receive-buffer 16384
}

threads() {
  [ -e "$folder/refusal-threads.json" ] ||
    "$bin/fanfare-load" refusal threads -n 40000 --json "$folder/refusal-threads.json"
}

# in_scratch OPTIONS...: at-scale.sh or million.sh, whose files go into the folder when all are there.
in_scratch() {
  local scratch
  scratch=$(mktemp -d)
  RESULTS=$scratch measured "$@" --raise
  mv "$scratch"/*.json "$folder/"
  rmdir "$scratch"
}

scale() {
  [ -e "$folder/at-scale-100000.json" ] || in_scratch loadtest/at-scale.sh 100000 5
  [ -e "$folder/at-scale-1000000.json" ] || in_scratch loadtest/at-scale.sh 1000000 3
}

# one_run COUNT OPTIONS...: one run of million.sh, unless its file is there: million-COUNT-BACKEND[-steered][-tun].json.
one_run() {
  local count=$1 backend=epoll suffix="" option previous=""
  for option; do
    [ "$previous" != --backend ] || backend=$option
    case $option in --steered) suffix+=-steered ;; --tun) suffix+=-tun ;; esac
    previous=$option
  done
  [ -e "$folder/million-$count-$backend$suffix.json" ] || in_scratch loadtest/million.sh "$@"
}

million() {
  local backend
  for backend in epoll io-uring; do one_run 1000000 --backend "$backend" --steered; done
}

# What the client costs over a device, beside what it costs with sockets: nothing but broadcasts, so no heartbeats.
tun() {
  local round
  for round in 1 2 3; do
    [ -e "$folder/client-$round-tun.json" ] && continue
    in_scratch loadtest/million.sh 100000 --steered --heartbeat 9h
    in_scratch loadtest/million.sh 100000 --steered --tun --heartbeat 9h
    mv "$folder/million-100000-epoll-steered.json" "$folder/client-$round-sockets.json"
    mv "$folder/million-100000-epoll-steered-tun.json" "$folder/client-$round-tun.json"
  done
  one_run 4000000 --tun --heartbeat 9h
  one_run 4000000 --backend bare --tun --heartbeat 9h
}

for part in "$@"; do
  case $part in
    steered | burst | plain | waiting | scenarios | fanfare | threads | scale | million | tun) "$part" ;;
    *) echo "tables.sh: no part $part; see its first lines" >&2; exit 2 ;;
  esac
done
