#!/usr/bin/env bash
# Installs the baselines that are somebody else's programs, as far as this machine can: with apt, cargo and go, by
# name. What is there already is left alone. What could not be had is named at the end with the reason, and the
# comparison leaves it out. Wants a Debian or a relative of it for nginx, node and Pushpin, cargo, and Go 1.26.
set -uo pipefail

here=$(cd "$(dirname "$0")" && pwd)
# The versions that the settings in baselines/ were written for. Centrifugo is the latest of its version 6.
durable_streams=0.1.5
mercure=v0.24.2
centrifugo=github.com/centrifugal/centrifugo/v6
missing=()

# try NAME COMMAND...
try() {
  local name=$1
  shift
  if "$@"; then
    echo "ok: $name"
  else
    missing+=("$name: \`${*:0:4}\` failed, see above")
  fi
}

there() { command -v "$1" > /dev/null; }

as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

# Debian starts what it installs; here only the programs are wanted.
install_package() {
  as_root apt-get install --yes --no-install-recommends "$@" || return
  local service
  for service in nginx pushpin zurl; do
    if [[ " $* " == *" $service "* ]] && there systemctl; then
      as_root systemctl disable --now "$service" > /dev/null 2>&1 || true
    fi
  done
}

# Each by itself, so that one that is not to be had takes none of the others along.
PATH="$PATH:/usr/sbin:$HOME/.cargo/bin"
if there apt-get; then
  there node || try node install_package nodejs
  there nginx || try nginx install_package nginx
  ls /usr/lib/nginx/modules/ngx_nchan_module.so > /dev/null 2>&1 || try nchan install_package libnginx-mod-nchan
  # The package is of 1.36. Later versions are neither in Debian 12 nor on crates.io.
  { there pushpin && there condure && there zurl; } || try pushpin install_package pushpin condure zurl
else
  missing+=("node, nchan, pushpin: there is no apt-get to install them with")
fi

if there cargo; then
  there durable-streams-server ||
    try "durable-streams $durable_streams" cargo install --locked durable-streams --version "$durable_streams"
else
  missing+=("durable-streams: there is no cargo")
fi

# Builds a program of a module that `go install` refuses, because it has no tagged version at its root or lists of
# versions are not to be had. build_go PROGRAM FLAGS PACKAGE MODULE@VERSION...
build_go() {
  local program=$1 flags=$2 package=$3 build
  shift 3
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
      go build -mod=mod -tags nobadger,nomysql,nopgx -ldflags "$flags" -o "$programs/$program" "$package"
  )
  local result=$?
  rm -rf "$build"
  return "$result"
}

# Centrifugo is told its own version when it is built. Version 5 has other settings, and is replaced.
install_centrifugo() {
  local version
  version=$(go list -m -f '{{.Version}}' "$centrifugo@latest") || return
  go install -ldflags "-X $centrifugo/internal/build.Version=${version#v}" "$centrifugo@$version"
}

is_centrifugo_6() {
  there centrifugo || return
  centrifugo version 2> /dev/null | grep -q 'v6\.' ||
    go version -m "$(command -v centrifugo)" 2> /dev/null | grep -q "$centrifugo"
}

build_own_go() { (cd "$here/baselines/go" && go build -o "$programs/fanfare-load-go" .); }

if there go; then
  programs=$(go env GOBIN)
  programs=${programs:-$(go env GOPATH)/bin}
  # In front, so that what is built here is what is found.
  PATH="$programs:$PATH"
  mkdir -p "$programs"
  try go build_own_go
  # The hub tells the version of Caddy unless it is told its own.
  there mercure || try "mercure $mercure" build_go mercure \
    "-X 'github.com/caddyserver/caddy/v2.CustomVersion=Mercure $mercure on Caddy'" \
    github.com/dunglas/mercure/caddy/mercure \
    "github.com/dunglas/mercure@$mercure" "github.com/dunglas/mercure/caddy@$mercure"
  is_centrifugo_6 || try "centrifugo 6" install_centrifugo
else
  missing+=("go, mercure, centrifugo: there is no go")
fi

echo "Those that can take part:"
for program in node nginx durable-streams-server fanfare-load-go mercure centrifugo pushpin condure zurl; do
  command -v "$program" || missing+=("$program: not on the PATH")
done
if [ "${#missing[@]}" -gt 0 ]; then
  echo "Those that could not be had:"
  printf '  %s\n' "${missing[@]}"
fi
