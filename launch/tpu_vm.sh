#!/usr/bin/env bash
# Creates a Cloud TPU slice, installs this checkout on all its hosts and runs one job on it.
#
#   ZONE=us-west4-a launch/tpu_vm.sh create
#   ZONE=us-west4-a launch/tpu_vm.sh setup     # the last commit, not the working tree
#   ZONE=us-west4-a launch/tpu_vm.sh run --config=FILE --workdir=/mnt/shared/RUN [...]
#   ZONE=us-west4-a launch/tpu_vm.sh logs | status | stop | delete
#
# run starts the same command on every host and returns; it may be repeated after a pre-emption.
# stop sends SIGTERM: the job saves and leaves. DRY_RUN=1 prints the commands, runs nothing.
#
# What the hosts' own shells expand stays in single quotes.
# shellcheck disable=SC2016
set -euo pipefail

# EDIT, here or in the environment; ZONE has no default.
TPU_NAME="${TPU_NAME:-jax-robust}"
ACCELERATOR_TYPE="${ACCELERATOR_TYPE:-v5litepod-16}"
RUNTIME_VERSION="${RUNTIME_VERSION:-v2-alpha-tpuv5-lite}"
PROJECT="${PROJECT:-}"  # empty: gcloud's current project
SPOT="${SPOT:-0}"       # 1: cheaper, may be taken away
NFS="${NFS:-}"          # ADDRESS:/SHARE that setup mounts at /mnt/shared on every host
DRY_RUN="${DRY_RUN:-0}"

fail() {
  echo "tpu_vm.sh: $1" >&2
  exit 2
}

# Runs a command, or prints it when DRY_RUN=1.
do_or_print() {
  if [[ "$DRY_RUN" == 1 ]]; then
    printf '%q ' "$@"
    echo
  else
    "$@"
  fi
}

tpu() {
  do_or_print gcloud compute tpus tpu-vm "$@" --zone="$ZONE" ${PROJECT:+--project="$PROJECT"}
}

# Runs $2 in the shell of host $1 (or of all).
on_hosts() {
  tpu ssh "$TPU_NAME" --worker="$1" --command="$2"
}

create() {
  local options=(--accelerator-type="$ACCELERATOR_TYPE" --version="$RUNTIME_VERSION")
  if [[ "$SPOT" == 1 ]]; then
    options+=(--spot)
  fi
  tpu create "$TPU_NAME" "${options[@]}"
}

setup() {
  local root archive="${TMPDIR:-/tmp}/jax_robust.tar.gz"
  root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
  do_or_print git -C "$root" archive --format=tar.gz --output="$archive" HEAD
  tpu scp "$archive" "$TPU_NAME:jax_robust.tar.gz" --worker=all
  # The images of TPU VMs come with Python 3.10, too old: uv brings its own 3.12.
  on_hosts all 'set -e
    rm -rf "$HOME/jax_robust"; mkdir -p "$HOME/jax_robust"
    tar -xzf "$HOME/jax_robust.tar.gz" -C "$HOME/jax_robust"; cd "$HOME/jax_robust"
    command -v "$HOME/.local/bin/uv" > /dev/null || curl -LsSf https://astral.sh/uv/install.sh | sh
    "$HOME/.local/bin/uv" venv --python 3.12 .venv
    "$HOME/.local/bin/uv" pip install --python .venv/bin/python ".[train,tpu]"'
  if [[ -n "$NFS" ]]; then
    on_hosts all "NFS=$(printf '%q' "$NFS")"'
      mountpoint -q /mnt/shared && exit 0
      sudo apt-get install -y nfs-common && sudo mkdir -p /mnt/shared &&
        sudo mount -t nfs "$NFS" /mnt/shared && sudo chown "$(id -u)" /mnt/shared'
  fi
}

run() {
  local argument workdir="" quoted
  for argument in "$@"; do
    case "$argument" in --workdir=*) workdir="${argument#*=}" ;; esac
  done
  if [[ -z "$workdir" ]]; then
    fail "run: --workdir=FOLDER is missing: a folder that every host sees, such as /mnt/shared/RUN"
  fi
  if [[ "$workdir" == *://* ]]; then
    fail "run: --workdir=$workdir: expected a folder that every host sees, not an address: set NFS"
  fi
  quoted="$(printf ' %q' "$@")"
  # A second job on the same chips would only fail later and less clearly.
  on_hosts all 'cd "$HOME/jax_robust" || exit 1
    if kill -0 "$(cat "$HOME/jax_robust.pid" 2> /dev/null)" 2> /dev/null; then
      echo "a job is running already: see status, stop" >&2; exit 1
    fi
    nohup .venv/bin/python -m jax_robust.main'"$quoted"' --config.distributed=True \
      >> "$HOME/jax_robust.log" 2>&1 < /dev/null &
    echo $! > "$HOME/jax_robust.pid"'
}

status() {
  tpu describe "$TPU_NAME" --format='value(state)'
  on_hosts all 'kill -0 "$(cat "$HOME/jax_robust.pid")" 2> /dev/null && echo running || echo stopped'
}

: "${1:?tpu_vm.sh: expected create, setup, run, logs, status, stop or delete}"
: "${ZONE:?tpu_vm.sh: set ZONE, for instance ZONE=us-west4-a}"
verb="$1"
shift
case "$verb" in
  create | setup | status) "$verb" ;;
  run) run "$@" ;;
  logs) on_hosts 0 'tail -n 50 -F "$HOME/jax_robust.log"' ;;
  stop) on_hosts all 'kill -TERM "$(cat "$HOME/jax_robust.pid")"' ;;
  delete) tpu delete "$TPU_NAME" --quiet ;;
  *) fail "$verb: expected create, setup, run, logs, status, stop or delete" ;;
esac
