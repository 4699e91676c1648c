#!/bin/sh
# `make run`: prepares the demonstration (buildq builds itself from a git bundle of HEAD, then an order for a sample of a
# .NET product) and starts the server.
# STATE and LISTEN in the environment choose the state directory and the address; the first argument is the program.
set -eu
program=$1

user_state=${XDG_STATE_HOME:-${HOME:-/tmp}/.local/state}/buildq
if [ "$(id -u)" = 0 ]; then default_state=/var/lib/buildq; else default_state=$user_state; fi

# configured NAME: whether the option is set already, in the environment or in the file the server will read.
configured() {
  env | grep -qi "^BuildQueue__$1=" && return 0
  file=appsettings.json
  [ -e "$file" ] || file=/etc/buildq/appsettings.json
  [ -r "$file" ] && grep -qi "\"$1\"[[:space:]]*:" "$file"
}

# prefer NAME VALUE: gives the option a value unless it has one.
prefer() { configured "$1" || export "BuildQueue__$1=$2"; }

if [ -n "${STATE:-}" ]; then
  case $STATE in /*) ;; *) STATE=$PWD/$STATE ;; esac
  export BuildQueue__StateDirectory="$STATE"
fi
[ -z "${LISTEN:-}" ] || export BuildQueue__Listen="$LISTEN"
state=${BuildQueue__StateDirectory:-$default_state}
prefer StateDirectory "$state"
prefer WorkspaceDirectory "$state/builds"
prefer OutputDirectory "$state/output"

if configured ManifestDirectory && [ -z "${BuildQueue__ManifestDirectory:-}" ]; then
  echo "ManifestDirectory is set in the configuration: starting without the demonstration build." >&2
  exec "$program" serve
fi
manifests=${BuildQueue__ManifestDirectory:-$state/manifests}
export BuildQueue__ManifestDirectory="$manifests"

# Git refuses a clone that belongs to somebody else, unless it is told that this one is meant.
git() { command git -c safe.directory="$PWD" "$@"; }

if ! git rev-parse --quiet --verify HEAD >/dev/null 2>&1; then
  echo "This is not a git clone: starting without the demonstration build." >&2
  exec "$program" serve
fi
[ -z "$(git status --porcelain --untracked-files=no)" ] ||
  echo "The working tree has changes that are not committed: the demonstration builds HEAD, without them." >&2

# The server gives these directories to RunAsUser; the files are for it to read.
umask 027
mkdir -p "$state" "$manifests"
umask 022
commit=$(git rev-parse HEAD)
bundle=$manifests/buildq.bundle
git bundle create --quiet "$bundle.new" HEAD
mv -f "$bundle.new" "$bundle"

case $(uname -m) in
  x86_64) architecture=linux-x64 ;;
  aarch64) architecture=linux-arm64 ;;
  *) architecture=linux-$(uname -m) ;;
esac
cat >"$manifests/demo.json.new" <<JSON
{
  "version": "1.0",
  "name": "buildq",
  "tier": "professional",
  "architecture": "$architecture",
  "cloudTargets": [{ "provider": "none" }],
  "tags": ["demonstration", "$commit"],
  "source": { "path": "buildq.bundle" },
  "build": {
    "system": "make",
    "targets": ["all"],
    "commands": [["build/buildq", "--version"]]
  }
}
JSON
mv -f "$manifests/demo.json.new" "$manifests/demo.json"

set -- --demonstrate "$manifests/demo.json"

# An order for the sample of a .NET product, where the SDK is. DEMONSTRATION=self leaves it out.
if [ "${DEMONSTRATION:-}" != self ] && command -v dotnet >/dev/null; then
  cat >"$manifests/order.json.new" <<JSON
{
  "version": "1.0",
  "name": "sample",
  "tier": "professional",
  "architecture": "$architecture",
  "modules": ["VectorTiles"],
  "cloudTargets": [{ "provider": "on-premises" }],
  "resources": { "minCpu": 1, "minMemoryGb": 0.5 },
  "environmentVariables": { "GREETING": "hello" },
  "source": { "repository": "buildq.bundle", "path": "spec/fixtures/product" },
  "build": { "system": "dotnet" }
}
JSON
  mv -f "$manifests/order.json.new" "$manifests/order.json"
  set -- "$@" --demonstrate "$manifests/order.json"
fi

exec "$program" serve "$@"
