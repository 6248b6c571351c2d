#!/usr/bin/env bash
# Installs the baselines that are somebody else's programs, as far as this machine can. What fails is said and
# skipped: the comparison leaves out who is not there. Wants a Debian or a relative of it for nginx and node.
set -uo pipefail

try() {
  local name=$1
  shift
  if "$@"; then echo "ok: $name"; else echo "skipped: $name" >&2; fi
}

as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

packages=()
command -v node > /dev/null || packages+=(nodejs)
ls /usr/lib/nginx/modules/ngx_nchan_module.so > /dev/null 2>&1 || packages+=(nginx-light libnginx-mod-nchan)
if [ "${#packages[@]}" -gt 0 ]; then
  try "${packages[*]}" as_root apt-get install --yes --no-install-recommends "${packages[@]}"
fi

# The version that the published figures were measured with.
if ! command -v durable-streams-server > /dev/null; then
  try "durable-streams 0.1.5" cargo install --locked durable-streams --version 0.1.5
fi

echo "Those that can take part:"
for program in node nginx durable-streams-server; do
  PATH="$PATH:/usr/sbin" command -v "$program" || echo "  not here: $program"
done
