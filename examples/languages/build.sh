#!/bin/sh
# Builds a program that speaks the Lambda Runtime API from the Go or Rust source beside this file.
#
#   ./build.sh go     makes go/bootstrap
#   ./build.sh rust   makes rust/bootstrap
#
# A folder as second argument takes the program instead, and what the build keeps.
set -eu
cd "$(dirname "$0")/$1"
into=${2:-$PWD}
mkdir -p "$into"
case $1 in
go)
  CGO_ENABLED=0 go build -trimpath -o "$into/bootstrap" .
  ;;
rust)
  cargo build --quiet --release --locked --target-dir "$into/target"
  cp "$into/target/release/bootstrap" "$into/bootstrap"
  ;;
*)
  echo "build.sh: $1 is neither go nor rust" >&2
  exit 2
  ;;
esac
