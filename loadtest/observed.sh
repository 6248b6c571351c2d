#!/usr/bin/env bash
# What it costs to be watched: a scrape every five seconds and three open dashboards beside COUNT idle subscribers, and
# how long a scrape takes while a broadcast goes to all of them.
#
#   loadtest/observed.sh [COUNT] [ROUNDS] [--backend epoll|io-uring] [--raise]
#
# COUNT subscribers (100,000) are held by one shard for each table of descriptors, as in million.sh. Then ROUNDS times
# (5) the server's processor time is taken over 20 seconds without an observer, and over 20 seconds with a scrape every
# five seconds and three dashboards. The second part asks for /metrics again and again while ten broadcasts run.
set -euo pipefail
cd "$(dirname "$0")/.."

name=observed.sh count= rounds= backend=epoll raise=no
while [ $# -gt 0 ]; do
  case $1 in
    --raise) raise=yes ;;
    --backend) backend=$2; shift ;;
    [0-9]*) if [ -z "$count" ]; then count=$1; else rounds=$1; fi ;;
    *) echo "$name: unknown argument $1; see its first lines" >&2; exit 2 ;;
  esac
  shift
done
count=${count:-100000} rounds=${rounds:-5}
. loadtest/machine.sh

cargo build --quiet --release -p fanfare-server -p fanfare-load
load=${CARGO_TARGET_DIR:-target}/release
preflight
make_namespace
cp "$load/fanfare" "$files"
"${inside[@]}" "$files/fanfare" serve --listen 127.0.0.1:8844 --admin 127.0.0.1:8845 --backend "$backend" \
  --shards "$shards" --head-time 60s >"$files/said" 2>&1 &
server=$!
admin=http://127.0.0.1:8845
ask() { "${inside[@]}" curl --silent --fail --max-time 20 "$@"; }
for _ in $(seq 100); do ask "$admin/health/ready" >"$files/health" 2>&1 && break; sleep 0.1; done
ask "$admin/health/ready" >"$files/health" || { cat "$files/said" >&2; exit 1; }

held=$((rounds * 50 + 30))
bounded $((300 + held + count / 500)) "$load/fanfare-load" idle -n "$count" --server-pid "$server" --events 10 \
  --rate 0.2 --duration 60s --settle "${held}s" --connect-rate 20000 --connect-burst 2000 --head-timeout 60s \
  --patience 60s --least-memory "$least_memory" --quiet >"$files/load" 2>&1 &
held_by=$!
subscribers() { ask "$admin/metrics" | awk '/^fanfare_connections[ {]/ { sum += $2 } END { print sum + 0 }'; }
for _ in $(seq 300); do
  [ "$(subscribers)" -ge "$count" ] && break
  kill -0 "$held_by" 2>/dev/null || { cat "$files/load" >&2; exit 1; }
  sleep 1
done
say "$(subscribers) subscribers on $shards shards, backend $backend"
sleep 25

# Processor time of the server, in milliseconds.
processor_time() { awk -v tick="$(getconf CLK_TCK)" '{ sub(/.*\) /, ""); print ($12 + $13) * 1000 / tick }' "/proc/$server/stat"; }
# What the server has had since then, in percent of a core: a scrape takes a part of the time, too.
begin() { from=$(processor_time) from_time=$(date +%s%N); }
share() { awk "BEGIN { print ($(processor_time) - $from) * 1e8 / ($(date +%s%N) - $from_time) }"; }
watched=()
for round in $(seq "$rounds"); do
  begin; sleep 20; alone=$(share)
  for _ in 1 2 3; do
    # No time-out of its own: it is ended below.
    "${inside[@]}" curl --silent --no-buffer --max-time 60 "$admin/dashboard/events" >"$files/dashboard.$round" &
    watched+=("$!")
  done
  sleep 1
  begin
  for _ in 1 2 3 4; do ask "$admin/metrics" >"$files/metrics"; sleep 5; done
  beside=$(share)
  for process in "${watched[@]}"; do kill "$process" 2>/dev/null || true; wait "$process" 2>/dev/null || true; done
  watched=()
  events=$(grep -c '^event: figures' "$files/dashboard.$round" || true)
  [ "$events" -ge 10 ] || { say "the dashboard got $events events"; exit 1; }
  echo "round $round: percent of a core alone $alone, observed $beside"
  echo "$alone $beside" >>"$files/rounds"
done
middle() { sort -n | awk '{ all[NR] = $1 } END { print all[int((NR + 1) / 2)] }'; }
echo "percent of a core for the observers, the median of $rounds rounds: $(awk '{ print $2 - $1 }' "$files/rounds" | middle)"

say "waiting for the broadcasts"
deliveries() { awk '/^fanfare_deliveries_total[ {]/ { sum += $2 } END { printf "%d\n", sum }' "$files/metrics"; }
before=
while kill -0 "$held_by" 2>/dev/null; do
  took=$(ask --output "$files/metrics" --write-out '%{time_total}' "$admin/metrics") || break
  now=$(deliveries)
  # A scrape that found a part of a broadcast delivered, and not all of it since the scrape before.
  if [ -n "$before" ] && [ "$now" != "$before" ]; then echo "$took" >>"$files/during"; else echo "$took" >>"$files/between"; fi
  before=$now
  sleep 0.02
done
wait "$held_by" || { cat "$files/load" >&2; say "the load test failed"; }
for kind in during between; do
  [ -s "$files/$kind" ] || { echo "no scrape $kind broadcasts"; continue; }
  sort -n "$files/$kind" | awk -v kind="$kind" '{ all[NR] = $1 * 1000 } END {
    printf "scrapes %s broadcasts: %d, milliseconds p50 %.1f, p99 %.1f, at most %.1f\n", kind, NR,
      all[int((NR + 1) / 2)], all[int(NR * 0.99 + 0.5)], all[NR] }'
done
grep -E 'valid|lost|deliveries' "$files/load" || true
