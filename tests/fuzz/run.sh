#!/bin/sh
# Fuzzes each target: BUILD=DIR sh tests/fuzz/run.sh SECONDS JOBS TARGET...   SECONDS is for all of them together.
# Seeds come from tests/fuzz/corpus/<target without fuzz_>/ (in git); what is found goes to $BUILD/corpus/<target>/.
set -u
seconds=$1 jobs=$2
shift 2
[ $# -gt 0 ] || { echo "fuzz: no targets"; exit 0; }
rounds=$((($# + jobs - 1) / jobs))
each=$((seconds / rounds))
[ "$each" -ge 1 ] || each=1

export BUILD each
printf '%s\n' "$@" | xargs -P "$jobs" -I{} sh -c '
  name=$(basename {})
  found=$BUILD/corpus/$name
  mkdir -p "$found"
  seeds=tests/fuzz/corpus/${name#fuzz_}
  [ -d "$seeds" ] || seeds=
  if {} -max_total_time="$each" -max_len=16384 -timeout=10 -rss_limit_mb=2048 -verbosity=0 -print_final_stats=1 \
    -artifact_prefix="$BUILD/$name-" "$found" $seeds >"$found.out" 2>&1; then
    awk -v name="$name" "/number_of_executed_units/ { print \"fuzz: \" name \": \" \$2 \" inputs, clean\" }" "$found.out"
  else
    tail -n 60 "$found.out"
    echo "fuzz: $name: FAILED; the input is in $BUILD/$name-*"
    exit 1
  fi'
