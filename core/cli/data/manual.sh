#!/bin/sh
# Writes the manual page: `sh manual.sh PROGRAM`. It is buildq.1, with the help of every command where @COMMANDS@ stands.
set -eu
program=$1
page=$(dirname "$0")/buildq.1

# Text as it stands: no backslash, hyphen, or dot at the beginning of a line means anything.
verbatim() { sed 's/\\/\\e/g; s/-/\\-/g; s/^\([.'"'"']\)/\\\&\1/'; }

# What each command says of itself, without what all of them say alike.
commands() {
  "$program" help | sed -n 's/^  \([a-z][a-z]*\) .*/\1/p' | while read -r name; do
    printf '.SS %s\n.nf\n.in 1n\n' "$name"
    "$program" "$name" --help |
      sed '/^Mandatory or optional arguments/,/^$/d; /^Exit codes:/,$d; /Give this help list$/d; /Give a short usage/d' |
      sed -e :last -e '/^\n*$/{$d;N;b last' -e '}' | verbatim
    printf '.fi\n'
  done
}

sed '/^@COMMANDS@$/,$d' "$page"
commands
sed '1,/^@COMMANDS@$/d' "$page"
