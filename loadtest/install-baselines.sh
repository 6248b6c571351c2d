#!/usr/bin/env bash
# Installs the baselines that are somebody else's programs, as far as this machine can. What fails is said and
# skipped: the comparison leaves out who is not there. Wants a Debian or a relative of it for nginx, node and
# Pushpin, cargo, and Go 1.26. The versions are those that the published figures were measured with.
set -uo pipefail

here=$(cd "$(dirname "$0")" && pwd)

try() {
  local name=$1
  shift
  if "$@"; then echo "ok: $name"; else echo "skipped: $name" >&2; fi
}

as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

# Debian starts what it installs; here only the programs are wanted.
install_packages() {
  as_root apt-get install --yes --no-install-recommends "$@" || return
  local service
  for service in pushpin zurl; do
    if [[ " $* " == *" pushpin "* ]] && command -v systemctl > /dev/null; then
      as_root systemctl disable --now "$service" > /dev/null 2>&1 || true
    fi
  done
}

packages=()
command -v node > /dev/null || packages+=(nodejs)
ls /usr/lib/nginx/modules/ngx_nchan_module.so > /dev/null 2>&1 || packages+=(nginx-light libnginx-mod-nchan)
command -v pushpin > /dev/null || packages+=(pushpin)
if [ "${#packages[@]}" -gt 0 ]; then
  try "${packages[*]}" install_packages "${packages[@]}"
fi

if ! command -v durable-streams-server > /dev/null; then
  try "durable-streams 0.1.5" cargo install --locked durable-streams --version 0.1.5
fi

if command -v go > /dev/null; then
  programs=$(go env GOBIN)
  programs=${programs:-$(go env GOPATH)/bin}
  PATH="$PATH:$programs"
  mkdir -p "$programs"
else
  echo "skipped: go, mercure and centrifugo, because there is no go" >&2
fi

# Builds a package of a module that `go install` refuses or needs a list of versions for.
# build_go PROGRAM PACKAGE MODULE@VERSION...
build_go() {
  local program=$1 package=$2 build
  shift 2
  build=$(mktemp -d) || return
  (
    cd "$build" && go mod init build || exit
    for module in "$@"; do
      go mod edit -require="$module" || exit
    done
    # Caddy carries certificate roots for systems that have none; these servers speak no TLS, and not every proxy has
    # the module.
    mkdir roots && echo 'package fallback' > roots/fallback.go &&
      printf 'module golang.org/x/crypto/x509roots/fallback\n' > roots/go.mod &&
      go mod edit -replace=golang.org/x/crypto/x509roots/fallback=./roots &&
      go build -mod=mod -tags nobadger,nomysql,nopgx -o "$programs/$program" "$package"
  )
  local result=$?
  rm -rf "$build"
  return "$result"
}

if command -v go > /dev/null; then
  (cd "$here/baselines/go" && try "go" go build -o "$programs/fanfare-load-go" .)
  if ! command -v mercure > /dev/null; then
    try "mercure 0.24.2" build_go mercure github.com/dunglas/mercure/caddy/mercure \
      github.com/dunglas/mercure@v0.24.2 github.com/dunglas/mercure/caddy@v0.24.2
  fi
  if ! command -v centrifugo > /dev/null; then
    try "centrifugo 5.4.9" build_go centrifugo github.com/centrifugal/centrifugo/v5 \
      github.com/centrifugal/centrifugo/v5@v5.4.9
  fi
fi

echo "Those that can take part:"
for program in node nginx durable-streams-server fanfare-load-go mercure centrifugo pushpin; do
  PATH="$PATH:/usr/sbin" command -v "$program" || echo "  not here: $program"
done
