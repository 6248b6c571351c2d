#!/usr/bin/env bash
# What questions about topics do to the latency of others.
#
#   loadtest/questions.sh [TOPICS] [CLIENTS] [ROUNDS]
#
# A server with four shards holds TOPICS subscribers, each with a topic of its own (50,000). Ten more read a small topic
# that gets 100 events a second. Its latency is measured in turns without questions and beside CLIENTS clients (300),
# each of which asks for the counts of one topic, and asks again as soon as it is answered. The load test prints both.
# Everything is on loopback; where the descriptor limit is below the number of topics, client and shards spread them
# over private descriptor tables.
set -euo pipefail
cd "$(dirname "$0")/.."

name=questions.sh
topics=${1:-50000} clients=${2:-300} rounds=${3:-3}
for number in "$topics" "$clients" "$rounds"; do
  [[ $number =~ ^[1-9][0-9]*$ ]] || { echo "$name: $number is no count; see the first lines of this file" >&2; exit 2; }
done

cargo build --quiet --release -p fanfare-server -p fanfare-load
bin=${CARGO_TARGET_DIR:-target}/release
port=$((20000 + $$ % 10000))
url=http://127.0.0.1:$port
work=$(mktemp -d)
server= crowd=
finish() {
  for process in $crowd $server; do kill -INT "$process" 2>/dev/null || true; done
  wait 2>/dev/null || true
  rm -r "$work"
}
trap finish EXIT

"$bin/fanfare" --shards 4 --listen "127.0.0.1:$port" 2>"$work/server" &
server=$!
give_up() { echo "$name: $1" >&2; cat "$2" >&2; exit 1; }
for try in $(seq 100); do
  (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null && break
  kill -0 "$server" 2>/dev/null && [ "$try" -lt 100 ] || give_up "the server does not listen" "$work/server"
  sleep 0.1
done

run_seconds=$((30 + rounds * 40))
timeout $((run_seconds + 120)) "$bin/fanfare-load" topics --url "$url" -n "$topics" --topic crowd --rate 1 \
  --duration "${run_seconds}s" --head-timeout 60s --quiet >"$work/crowd" 2>&1 &
crowd=$!
count() { exec 3<>"/dev/tcp/127.0.0.1/$port" && printf 'GET /topics/crowd-%s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n' "$1" >&3 && cat <&3; }
for try in $(seq 120); do
  (count $((topics - 1))) 2>/dev/null | grep -q '"subscribers":1' && break
  kill -0 "$crowd" 2>/dev/null && [ "$try" -lt 120 ] || give_up "the subscribers do not come" "$work/crowd"
  sleep 1
done

small() { # more options
  timeout 60 "$bin/fanfare-load" fanout --url "$url" -n 10 --topic small --rate 100 --duration 10s --server-pid "$server" \
    --quiet "$@" >"$work/small" 2>&1 || give_up "the load test failed" "$work/small"
  grep -E '^ (latency|answer to|meanwhile|deliveries  )|valid|note' "$work/small"
}
for round in $(seq "$rounds"); do
  echo "round $round: the small topic without questions"
  small
  echo "round $round: beside $clients clients that ask for /topics/crowd-17"
  small --ask "$url/topics/crowd-17" --ask-clients "$clients"
done
