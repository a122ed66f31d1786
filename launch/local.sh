#!/usr/bin/env bash
# Runs a job on this machine: one process, or several that rehearse a cluster over localhost.
#
#   launch/local.sh [--devices=N] [--processes=P] [--dry-run] --config=FILE --workdir=DIR [...]
#
#   --devices=N    N virtual CPU devices in every process (without it: whatever JAX finds here)
#   --processes=P  P processes on the CPU, as P hosts would run, joined over localhost
#   --dry-run      print the commands, run nothing
#
# Everything else goes to jax_robust.main as it is. PYTHON names the interpreter, PORT the
# coordinator's port, GRACE the seconds that processes get to leave after one of them has failed.
# SIGTERM and Ctrl-C reach every process as SIGTERM: each saves and leaves.
set -euo pipefail

devices=""
processes=1
dry_run=0
arguments=()
for argument in "$@"; do
  case "$argument" in
    --devices=*) devices="${argument#*=}" ;;
    --processes=*) processes="${argument#*=}" ;;
    --dry-run) dry_run=1 ;;
    -h | --help) sed -n '2,/^set/{/^#/s/^# \{0,1\}//p;}' "$0"; exit 0 ;;
    *) arguments+=("$argument") ;;
  esac
done

for count in "--devices=${devices:-1}" "--processes=$processes"; do
  if ! [[ "${count#*=}" =~ ^[1-9][0-9]*$ ]]; then
    echo "local.sh: $count: expected a whole number of at least 1" >&2
    exit 2
  fi
done
if ((${#arguments[@]} == 0)); then
  echo "local.sh: nothing to run: expected --config=FILE --workdir=DIR (see --help)" >&2
  exit 2
fi

# Huge pages: otherwise the page faults of large temporary arrays take a tenth of the time on a CPU.
base=(env TF_CPP_MIN_LOG_LEVEL="${TF_CPP_MIN_LOG_LEVEL:-2}")
base+=(GLIBC_TUNABLES="${GLIBC_TUNABLES:-glibc.malloc.hugetlb=1}")
if [[ -n "$devices" ]] || ((processes > 1)); then
  # The last of several equal XLA flags wins, so that what the caller has set otherwise is kept.
  flags="${XLA_FLAGS:+$XLA_FLAGS }--xla_force_host_platform_device_count=${devices:-1}"
  base+=(JAX_PLATFORMS=cpu XLA_FLAGS="$flags")
fi
main=("${PYTHON:-python}" -m jax_robust.main "${arguments[@]}")
port="${PORT:-$((20000 + RANDOM % 12000))}"  # below the range that the kernel hands out

# Sets `command` to what process number $1 runs.
make_command() {
  command=("${base[@]}")
  if ((processes > 1)); then
    command+=(JAX_COORDINATOR_ADDRESS="localhost:$port" JAX_NUM_PROCESSES="$processes" JAX_PROCESS_ID="$1")
    command+=("${main[@]}" --config.distributed=True)
  else
    command+=("${main[@]}")
  fi
}

if ((dry_run)); then
  for ((rank = 0; rank < processes; rank++)); do
    make_command "$rank"
    printf '%q ' "${command[@]}"
    echo
  done
  exit 0
fi
if ((processes == 1)); then
  make_command 0
  exec "${command[@]}"
fi

# Puts the rank in front of every line at once (mawk and sed would hold lines back); the last words
# of a process come after a signal, so none ends this.
label() {
  local line
  trap '' INT TERM
  while IFS= read -r line || [[ -n "$line" ]]; do
    printf '[%s] %s\n' "$1" "$line"
  done
}

pids=()
trap 'kill -TERM "${pids[@]}" 2> /dev/null || true' TERM INT
for ((rank = 0; rank < processes; rank++)); do
  make_command "$rank"
  "${command[@]}" > >(label "$rank") 2>&1 &
  pids+=("$!")
done

# One process that fails leaves the others waiting for it in a collective: end them too. 143 is
# no failure: stopped by SIGTERM, after a save, and the others may still be at theirs.
status=0
failed=0
deadline=0
while ((${#pids[@]} > 0)); do
  alive=()
  for pid in "${pids[@]}"; do
    if kill -0 "$pid" 2> /dev/null; then
      alive+=("$pid")
    else
      code=0
      wait "$pid" || code=$?
      if ((code != 0 && !failed)); then
        status=$code
        failed=$((code != 143))
      fi
    fi
  done
  pids=(${alive[@]+"${alive[@]}"})
  if ((failed && ${#pids[@]} > 0)); then
    if ((deadline == 0)); then
      deadline=$((SECONDS + ${GRACE:-30}))
      kill -TERM "${pids[@]}" 2> /dev/null || true
    elif ((SECONDS >= deadline)); then
      kill -KILL "${pids[@]}" 2> /dev/null || true
    fi
  fi
  sleep 0.1
done
exit "$status"
