#!/usr/bin/env bash
# Starts a worker: the whole demo on one machine, or the one worker of an instance. See usage below.

# Another shell cannot read what follows, and bash itself only where it does not play one (`sh start_server.sh`).
case "${BASH_VERSION:+bash}:${SHELLOPTS-}:" in
  bash:*:posix:* | :*)
    if ! command -v bash >/dev/null; then
      echo "start_server.sh: bash is missing. Install it and start again: apt-get update && apt-get install -y bash" >&2
      exit 1
    fi
    exec env -u POSIXLY_CORRECT bash "$0" "$@"
    ;;
esac
set -euo pipefail

readonly DEMO_DIR=.pyworker
readonly PYTHON=.venv/bin/python
readonly STAMP=.venv/.requirements-installed
readonly READY_SECONDS=90
readonly LARGE_LOG=$((10 * 1024 * 1024))
readonly UPDATE_SECONDS=120

# Where the output of the preparations goes.
SETUP_LOG=$DEMO_DIR/setup.log
# What the person who started this looks at; stdout and stderr may lead into a log as well.
TERMINAL=2
# Of an instance: whether a failure is still to be reported, the process that writes debug.log, the worker, and
# the signal it was asked to end with.
UNREPORTED=false
DEBUG_TEE=
WORKER=
ASKED=

# Every child in the order of its start; a child's name, log and advice, by process id.
CHILDREN=()
declare -A NAME_OF LOG_OF ADVICE_OF
# What children are started through; see prepare_launch.
LAUNCH=()
LINE_IS_OPEN=false
LAST_DOT=0

usage() {
  cat <<'END'
usage: ./start_server.sh demo [--once] [WORKER]
       BACKEND=NAME MODEL_LOG=PATH CONTAINER_ID=ID ... ./start_server.sh
       ./start_server.sh --help

demo       Run a model server, a local autoscaler and the worker WORKER (default: hello_world) on this
           machine, show a whole and a streamed answer, and stay until Ctrl-C.
  --once   End after the answers.

Without arguments: serve the worker BACKEND as on an instance, with USE_SSL=true unless it is set. SIGTERM lets
it finish its requests; a failure is reported to the autoscaler. Read from the environment, beside the settings
of the worker itself:

  WORKSPACE_DIR        /workspace; holds debug.log, pyworker.log and what the worker remembers
  KEEP_MODEL_LOG       false; true reads the model's log of an earlier run again, for a model that still runs
  CONSOLE_URL          https://console.vast.ai; signs the certificate that USE_SSL=true needs
  CERTIFICATE_TIMEOUT  120; seconds in which it has to
  PYWORKER_UPDATE_FLAG /.force_update; where this file is, the project is updated before the start

Both make .venv and install requirements.txt when that is needed. The demo's ports are set with
DEMO_MODEL_PORT (5001), DEMO_AUTOSCALER_PORT (8081) and WORKER_PORT (3000). README.md lists every setting.
END
}

main() {
  case "${1-}" in
    -h | --help)
      usage
      ;;
    demo)
      shift
      demo "$@"
      ;;
    "")
      serve
      ;;
    *)
      bad_usage "unknown argument: $1"
      ;;
  esac
}

bad_usage() {
  printf 'start_server.sh: %s\n\n' "$1" >&2
  usage >&2
  exit 2
}

# --- what is said ------------------------------------------------------------------------------------------

# fail LINE...: what is wrong and what to do about it.
fail() {
  end_line
  note "$@"
  report "$@"
  exit 1
}

note() {
  printf 'start_server.sh: %s\n' "$@" >&2
}

# open_line TEXT: begin a line that dots and the elapsed seconds will end.
open_line() {
  printf '  %s .' "$1"
  LINE_IS_OPEN=true
  LAST_DOT=$SECONDS
}

end_line() {
  if [[ $LINE_IS_OPEN == true ]]; then
    printf '%s\n' "${1-}"
  fi
  LINE_IS_OPEN=false
}

# Wait a moment; a dot for each second.
tick() {
  sleep 0.2
  if ((SECONDS > LAST_DOT)); then
    printf '.'
    LAST_DOT=$SECONDS
  fi
}

# show_log FILE: its last lines, indented, as part of an error message; for the terminal, since a log has them.
show_log() {
  end_line
  {
    printf '\nThe last lines of %s:\n' "$1"
    tail -n 15 -- "$1" | sed 's/^/    /'
    printf '\n'
  } >&"$TERMINAL"
}

# --- children ----------------------------------------------------------------------------------------------

# Each child gets a session of its own, so that Ctrl-C reaches this script first and everything ends in
# order, and a death signal for the case that this script is killed without a chance to say goodbye.
prepare_launch() {
  if setsid true 2>/dev/null; then
    LAUNCH+=(setsid)
  fi
  if setpriv --pdeathsig TERM true 2>/dev/null; then
    # A script that was killed before its child had asked for the signal will send none.
    # shellcheck disable=SC2016 # expanded by the child
    LAUNCH+=(setpriv --pdeathsig TERM "$BASH" -c '[[ $PPID == "$0" ]] || exit 143; exec "$@"' "$$")
  fi
  trap finish EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM
  trap 'exit 129' HUP
}

# spawn NAME LOG ADVICE COMMAND...: in the background, because bash heeds a signal only between commands and
# while it waits. With "-" as LOG the output goes where this script's goes.
spawn() {
  local name=$1 log=$2 advice=$3
  shift 3
  if [[ $log == - ]]; then
    ${LAUNCH[@]+"${LAUNCH[@]}"} "$@" &
  else
    ${LAUNCH[@]+"${LAUNCH[@]}"} "$@" >>"$log" 2>&1 &
  fi
  CHILDREN+=("$!")
  NAME_OF[$!]=$name
  LOG_OF[$!]=$log
  ADVICE_OF[$!]=$advice
}

is_alive() {
  kill -0 "$1" 2>/dev/null
}

# run TEXT COMMAND...: one step of the preparation with a line of progress; returns the command's status.
run() {
  local text=$1 began=$SECONDS pid status=0
  shift
  open_line "$text"
  spawn "$1" "$SETUP_LOG" "" "$@"
  pid=${CHILDREN[-1]}
  while is_alive "$pid"; do
    tick
  done
  forget "$pid" || status=$?
  if ((status == 0)); then
    end_line " $((SECONDS - began)) s"
  else
    end_line " failed"
  fi
  return "$status"
}

# forget PID: the last child has ended, or is waited for; returns its status.
forget() {
  local status=0
  wait "$1" || status=$?
  unset 'CHILDREN[-1]'
  return "$status"
}

# Fail, with the reason, when a child has ended that should be running.
require_children() {
  local pid status=0
  for pid in "${CHILDREN[@]}"; do
    if ! is_alive "$pid"; then
      wait "$pid" || status=$?
      show_log "${LOG_OF[$pid]}"
      if ((status > 128)); then
        fail "${NAME_OF[$pid]} was ended from outside (signal $((status - 128))). Is there enough memory? Start again."
      fi
      fail "${NAME_OF[$pid]} ended by itself (status $status). ${ADVICE_OF[$pid]}"
    fi
  done
}

# inquire COMMAND...: run it; the lines it prints are in ANSWER. Returns its status. Unlike $(...), it can be
# ended by a signal.
inquire() {
  local status=0 file=$WORKSPACE_DIR/.answer.$$ answer
  exec {answer}<>"$file"
  rm -f -- "$file"
  spawn "$1" - "" "$@" >&"$answer"
  forget "${CHILDREN[-1]}" || status=$?
  mapfile -t ANSWER <"/proc/$$/fd/$answer"
  exec {answer}>&-
  return "$status"
}

# The last started ends first, so that the worker's last report finds the autoscaler. Bash's own list is asked,
# since a signal may come between the start of a child and its entry in CHILDREN.
finish() {
  local status=$? pid
  trap '' INT TERM HUP
  trap - EXIT
  end_line
  for pid in $(jobs -p | tac); do
    stop "$pid"
  done
  if ((status > 0 && status < 128)); then
    report "start_server.sh ended with status $status"
  fi
  close_debug_log
  exit "$status"
}

# stop PID: politely, after ten seconds by force, with whatever it started itself.
stop() {
  local pid=$1 tries
  kill -TERM "$pid" 2>/dev/null || true
  for ((tries = 0; tries < 100; tries++)); do
    is_alive "$pid" || break
    sleep 0.1
  done
  kill -KILL -- "-$pid" 2>/dev/null || kill -KILL "$pid" 2>/dev/null || true
  wait "$pid" 2>/dev/null || true
}

# --- the Python environment --------------------------------------------------------------------------------

require_python() {
  if ! command -v python3 >/dev/null && can_install; then
    install_packages python3 python3-venv || show_log "$SETUP_LOG"
  fi
  command -v python3 >/dev/null ||
    fail "python3 is missing. Install it and start again: apt-get update && apt-get install -y python3 python3-venv"
  python3 -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
    fail "python3 is $(python3 -V 2>&1 | cut -d ' ' -f 2), but 3.10 or newer is needed."
}

# Make .venv and install requirements.txt, unless the stamp says that exactly this was done.
prepare_venv() {
  if [[ -f $STAMP && $(<"$STAMP") == "$(fingerprint)" ]]; then
    return
  fi
  # Without it, an interrupted installation is taken up again by the next start.
  rm -f "$STAMP"
  if ! "$PYTHON" -m pip --version >/dev/null 2>&1; then
    make_venv
  fi
  if ! run "installing requirements.txt into .venv (a minute or two)" \
    "$PYTHON" -m pip install --disable-pip-version-check -r requirements.txt; then
    show_log "$SETUP_LOG"
    fail "pip could not install requirements.txt. Is the network there, and space on the disk?" \
      "Start again: what is installed already is kept."
  fi
  fingerprint >"$STAMP"
}

# What .venv was made for and of.
fingerprint() {
  "$PYTHON" -V 2>/dev/null || true
  sha256sum <requirements.txt
}

make_venv() {
  # --clear: an earlier attempt may have left half of it, or its Python is gone.
  if run "making .venv" python3 -m venv --clear .venv; then
    return
  fi
  if ! can_install; then
    show_log "$SETUP_LOG"
    fail "python3 -m venv does not work. Install your system's package of Python's venv module, then start again:" \
      "    sudo apt-get update && sudo apt-get install -y python3 python3-venv"
  fi
  if ! install_packages python3 python3-venv || ! run "making .venv" python3 -m venv --clear .venv; then
    show_log "$SETUP_LOG"
    fail "python3 -m venv does not work, and installing python3-venv did not help." \
      "Is $(command -v python3) the system's own Python? What it said is above."
  fi
}

can_install() {
  command -v apt-get >/dev/null && (($(id -u) == 0))
}

install_packages() {
  [[ -e $SETUP_LOG ]] || begin_setup_log
  # A list of packages that is a little old is good enough, where it cannot be fetched.
  run "updating the list of packages" apt-get update || true
  run "installing $*" env DEBIAN_FRONTEND=noninteractive apt-get install -y "$@"
}

begin_setup_log() {
  mkdir -p "$DEMO_DIR"
  : >"$SETUP_LOG"
}

# --- the demo ----------------------------------------------------------------------------------------------

demo() {
  local once=false worker=
  while (($#)); do
    case "$1" in
      --once) once=true ;;
      -h | --help)
        usage
        exit
        ;;
      -*) bad_usage "unknown option of demo: $1" ;;
      *)
        [[ -z $worker ]] || bad_usage "more than one worker: $worker and $1"
        [[ $1 =~ ^[A-Za-z0-9_.-]+$ ]] || bad_usage "not a worker's name: $1"
        worker=$1
        ;;
    esac
    shift
  done
  worker=${worker:-hello_world}
  prepare_launch
  require_python
  demo_ports
  demo_environment
  printf 'The demo of the worker %s, all on this machine:\n' "$worker"
  # Nothing that an earlier demo logged or measured may be taken for this one's.
  rm -rf "$DEMO_DIR"
  begin_setup_log
  prepare_venv
  start_all "$worker"
  show_answers "$worker"
  if [[ $once == false ]]; then
    show_next_steps "$worker"
    stay
  fi
}

demo_ports() {
  MODEL_PORT=${DEMO_MODEL_PORT:-5001}
  AUTOSCALER_PORT=${DEMO_AUTOSCALER_PORT:-8081}
  WORKER_PORT=${WORKER_PORT:-3000}
  require_free_ports "DEMO_MODEL_PORT=$MODEL_PORT" "DEMO_AUTOSCALER_PORT=$AUTOSCALER_PORT" \
    "WORKER_PORT=$WORKER_PORT"
}

# Only what the demo means, whatever the settings of this shell are for.
demo_environment() {
  unset BACKEND UNSECURED CHECK_URL MASTER_TOKEN MODEL_API_KEY MODEL_HEALTH_ENDPOINT MODEL_TIMEOUT \
    PYWORKER_PUBLIC_URL WEB_CONCURRENCY GUNICORN_CMD_ARGS
  export WORKER_PORT
  export "VAST_TCP_PORT_$WORKER_PORT=$WORKER_PORT"
  export WORKER_HOST=127.0.0.1 PUBLIC_IPADDR=127.0.0.1 CONTAINER_ID=1 USE_SSL=false
  export REPORT_ADDR=http://127.0.0.1:$AUTOSCALER_PORT MODEL_SERVER_URL=http://127.0.0.1:$MODEL_PORT
  export MODEL_LOG=$PWD/$DEMO_DIR/model.log PYWORKER_STATE_DIR=$PWD/$DEMO_DIR
  export DRAIN_TIMEOUT=${DRAIN_TIMEOUT:-5}
  # What is on this machine is not asked through a proxy.
  export no_proxy=127.0.0.1,localhost${no_proxy:+,$no_proxy}
  export NO_PROXY=$no_proxy
}

# require_free_ports NAME=PORT...: fail with a line for each that is no port, given twice, or taken.
require_free_ports() {
  local faults status=0
  faults=$(python3 -IS pyworker/instance/ports.py "$@") || status=$?
  # A worker that holds the port is well, whatever becomes of this start.
  ((status != 3)) || UNREPORTED=false
  if ((status != 0)); then
    mapfile -t faults <<<"$faults"
    fail "${faults[@]}"
  fi
}

# start_all WORKER: the three servers, until the worker is ready for requests.
start_all() {
  local advice="Mend what its log names, then start again."
  spawn "The model server" "$DEMO_DIR/model-server.log" "$advice" \
    "$PYTHON" -m pyworker.local.model_server --port "$MODEL_PORT" --log-file "$MODEL_LOG" \
    --tokens-per-second 400 --parallel 10 --load-seconds 1
  spawn "The local autoscaler" "$DEMO_DIR/autoscaler.log" "$advice" \
    "$PYTHON" -m pyworker.local.autoscaler --port "$AUTOSCALER_PORT"
  await "waiting for the local autoscaler on port $AUTOSCALER_PORT" http_get "$AUTOSCALER_PORT" /workers/
  # The worker's first report and the public key need the autoscaler, hence this order.
  spawn "The worker $1" "$DEMO_DIR/worker.log" "$advice" \
    "$PYTHON" -m gunicorn -c gunicorn.conf.py "pyworker:create_app(\"$1\")"
  await "waiting for the worker on port $WORKER_PORT" worker_answers
  await "waiting for the model server on port $MODEL_PORT" http_get "$MODEL_PORT" /healthcheck
  await "waiting for the worker to measure the model's speed" worker_is_ready
}

# await TEXT COMMAND...: until the command succeeds, with a line of progress.
await() {
  local text=$1 began=$SECONDS
  shift
  open_line "$text"
  until "$@" >/dev/null; do
    require_children
    if ((SECONDS - began > READY_SECONDS)); then
      show_log "$DEMO_DIR/worker.log"
      fail "Gave up after $READY_SECONDS s of $text (see the logs in $DEMO_DIR). The demo's model server logs" \
        "\"server has started\" and speaks the routes of hello_world: the worker has to know both."
    fi
    tick
  done
  end_line " $((SECONDS - began)) s"
}

# http_get PORT PATH: print the answer's body; fails unless it is 200. curl need not be there.
http_get() {
  "$PYTHON" -IS - "$@" 2>/dev/null <<'END'
import http.client, sys

connection = http.client.HTTPConnection("127.0.0.1", int(sys.argv[1]), timeout=5)
connection.request("GET", sys.argv[2])
answer = connection.getresponse()
sys.stdout.write(answer.read().decode("utf-8", "replace"))
sys.exit(answer.status != 200)
END
}

# Whether the worker answers; fails for good when it stays only to report that it cannot start.
worker_answers() {
  if grep -q 'pyworker: cannot start: .*; reported' "$DEMO_DIR/worker.log"; then
    show_log "$DEMO_DIR/worker.log"
    fail "The worker cannot start. Mend what its log names, then start again."
  fi
  http_get "$WORKER_PORT" /ping
}

# Whether the autoscaler knows the worker as ready; fails for good when the worker reports an error.
worker_is_ready() {
  local state reason
  read -r state reason < <(http_get "$AUTOSCALER_PORT" /workers/ | "$PYTHON" -ISc '
import json, sys

for worker in json.load(sys.stdin)["workers"]:
    print(worker["state"], " ".join(worker["error_msg"].split()))
' 2>/dev/null) || return 1
  if [[ $state == errored ]]; then
    show_log "$DEMO_DIR/worker.log"
    fail "The worker reports an error: $reason"
  fi
  [[ $state == ready ]]
}

# client_options WORKER: how a client finds the demo's autoscaler.
client_options() {
  if [[ $AUTOSCALER_PORT == 8081 ]]; then
    printf '%s' "-l"
  else
    printf '%s' "--autoscaler http://127.0.0.1:$AUTOSCALER_PORT -k local -e $1"
  fi
}

# client_module WORKER: the name of its example client; empty where there is none.
client_module() {
  "$PYTHON" - "$1" <<'END'
import importlib.util, sys

for name in (f"workers.{sys.argv[1]}.client", f"{sys.argv[1]}.client"):
    try:
        if importlib.util.find_spec(name):
            print(name)
            break
    except ModuleNotFoundError:
        pass
END
}

show_answers() {
  local module options
  module=$(client_module "$1")
  options=$(client_options "$1")
  if [[ -z $module ]]; then
    printf '\nThe worker is ready. %s has no client module, so no example requests are sent.\n' "$1"
    return
  fi
  printf '\nA whole answer:\n'
  ask "$module" "$options"
  printf '\nA streamed answer:\n'
  ask "$module" "$options" --stream
}

# ask MODULE OPTIONS [OPTION]: one request through the example client, shown as a command one could type.
ask() {
  local module=$1 options
  read -ra options <<<"$2"
  shift 2
  printf '$ %s -m %s %s\n' "$PYTHON" "$module" "${options[*]}${1:+ $1}"
  # Warnings of the client are for its log, errors for the terminal too.
  spawn "The client" - "" "$PYTHON" -m "$module" "${options[@]}" --timeout 60 "$@" 2>"$DEMO_DIR/client.log"
  if ! forget "${CHILDREN[-1]}"; then
    require_children
    show_log "$DEMO_DIR/client.log"
    fail "The request failed. $DEMO_DIR/worker.log may say more."
  fi
}

show_next_steps() {
  local module options
  module=$(client_module "$1")
  options=$(client_options "$1")
  printf '\nEverything goes on until Ctrl-C. To try in another terminal, in %s:\n' "$PWD"
  if [[ -n $module ]]; then
    printf '  %s\n' "$PYTHON -m $module $options --stream --prompt \"What is a tide?\""
    printf '  %s\n' "$PYTHON -m pyworker.loadtest -w $1 $options -n 100 -rps 10"
  fi
  printf '  curl http://127.0.0.1:%s\n' "$WORKER_PORT/ping" "$AUTOSCALER_PORT/workers/"
  printf 'The logs: %s\n' "$DEMO_DIR/worker.log, $DEMO_DIR/autoscaler.log, $DEMO_DIR/model.log"
}

# Until a signal comes; a child that ends is an error.
stay() {
  wait -n "${CHILDREN[@]}" || true
  require_children
}

# --- an instance -------------------------------------------------------------------------------------------

serve() {
  export WORKER_PORT=${WORKER_PORT:-3000} USE_SSL=${USE_SSL:-true} REPORT_ADDR=${REPORT_ADDR:-https://run.vast.ai}
  prepare_launch
  UNREPORTED=true
  prepare_workspace
  open_debug_log
  # Nothing of ours runs without it, so the model's log belongs to this start already, before the lock is had.
  command -v python3 >/dev/null || set_model_log_aside
  require_python
  take_lock
  set_large_logs_aside
  check_settings
  require_free_ports --host "${WORKER_HOST:-0.0.0.0}" "WORKER_PORT=$WORKER_PORT"
  # Before what takes minutes: what a model logs meanwhile is for this worker.
  set_model_log_aside
  update_if_asked
  prepare_venv
  prepare_certificate
  serve_until_told
}

# report LINE...: tell the autoscaler that an instance cannot start; once.
report() {
  local IFS=' '
  if [[ $UNREPORTED == true ]] && command -v python3 >/dev/null; then
    UNREPORTED=false
    spawn "The report" - "" python3 -I pyworker/beacon.py --once "$*"
    forget "${CHILDREN[-1]}" || true
  fi
}

prepare_workspace() {
  local reason
  export WORKSPACE_DIR=${WORKSPACE_DIR:-/workspace}
  export PYWORKER_STATE_DIR=${PYWORKER_STATE_DIR:-$WORKSPACE_DIR}
  DEBUG_LOG=$WORKSPACE_DIR/debug.log
  WORKER_LOG=$WORKSPACE_DIR/pyworker.log
  LOCK_FILE=$WORKSPACE_DIR/.pyworker.lock
  if ! reason=$({ mkdir -p -- "$WORKSPACE_DIR" && touch -- "$DEBUG_LOG" "$WORKER_LOG" "$LOCK_FILE"; } 2>&1); then
    fail "WORKSPACE_DIR=$WORKSPACE_DIR cannot be used (${reason##*: }): set it to a folder that can be written"
  fi
  SETUP_LOG=$DEBUG_LOG
}

# From here on all that is said goes to debug.log too.
open_debug_log() {
  exec {TERMINAL}>&2
  exec > >(keep_copy "$DEBUG_LOG") 2>&1
  DEBUG_TEE=$!
  printf '\n%s: start_server.sh, process %s\n' "$(date)" "$$" >>"$DEBUG_LOG"
}

# The last words are in the log when this returns.
close_debug_log() {
  if [[ -n $DEBUG_TEE ]]; then
    exec >&"$TERMINAL" 2>&1
    wait "$DEBUG_TEE" || true
    DEBUG_TEE=
  fi
}

# keep_copy FILE: pass stdin on to the terminal and append it to the file, until the last writer is gone: a
# signal to all processes at once, or a terminal that is closed, must not end it before.
keep_copy() {
  trap '' HUP INT QUIT TERM PIPE
  exec tee -a -- "$1" >&"$TERMINAL"
}

# One start at a time. The lock lives as long as this script, its worker, or the beacon that it becomes.
take_lock() {
  local patience=40 holder status=0
  if [[ ${DRAIN_TIMEOUT-} =~ ^[0-9]+ ]]; then
    patience=$((10#${BASH_REMATCH[0]} + 15))
  fi
  exec 9<>"$LOCK_FILE"
  inquire python3 -IS pyworker/instance/lock.py 9 "$$" "$patience" || status=$?
  if ((status == 2)); then
    note "$LOCK_FILE cannot be locked (${ANSWER[*]}): nothing keeps a second start away but the port." \
      "Set WORKSPACE_DIR to a folder of a local file system."
  fi
  if ((status == 0 || status == 2)); then
    return
  fi
  # It is none of the other's business that this one cannot start.
  UNREPORTED=false
  holder=$(python3 -IS pyworker/instance/ports.py --holder "$WORKER_PORT")
  fail "this instance is started already: ${ANSWER[*]} has $LOCK_FILE, and ${holder:-nobody yet} listens on" \
    "port $WORKER_PORT. End that first, then start again."
}

set_large_logs_aside() {
  local log
  for log in "$DEBUG_LOG" "$WORKER_LOG"; do
    if (($(wc -c <"$log") > LARGE_LOG)); then
      set_aside "$log"
    fi
  done
}

# set_aside FILE: to FILE.old. The file stays the same one, for a process that has it open.
set_aside() {
  [[ -f $1 && -w $1 ]] || fail "$1 cannot be emptied: is it a file that this user may write?"
  # A full disk must not keep it from being emptied.
  cp -- "$1" "$1.old" || note "$1 cannot be kept as $1.old"
  : >"$1"
}

# Name everything that is missing at once. Whether a value is valid is checked by pyworker.config.
check_settings() {
  local public_port=VAST_TCP_PORT_$WORKER_PORT readiness=${MODEL_READINESS-} faults=()
  if [[ ! $WORKER_PORT =~ ^[0-9]+$ ]]; then
    fail "WORKER_PORT=$WORKER_PORT is not valid: expected a port from 1 to 65535"
  fi
  if [[ -z ${BACKEND-} ]]; then
    faults+=("BACKEND is not set: set it to the name of a worker (here: $(worker_names))")
  elif [[ ! $BACKEND =~ ^[A-Za-z0-9_.-]+$ ]]; then
    faults+=("BACKEND is not a worker's name: set it to one of $(worker_names), or to the dotted path of a package")
  fi
  if [[ -z ${MODEL_LOG-} && ${readiness,,} != health ]]; then
    faults+=("MODEL_LOG is not set: set it to the file that the model server logs to")
  fi
  if ! is_true "${UNSECURED-}"; then
    if [[ ! ${CONTAINER_ID-} =~ ^0*[1-9][0-9]*$ ]]; then
      faults+=("CONTAINER_ID is not set to a number: set it to the integer id of this instance")
    fi
    if [[ -z ${PYWORKER_PUBLIC_URL-} ]] && ! is_false "${CHECK_URL-}"; then
      [[ -n ${PUBLIC_IPADDR-} ]] || faults+=("PUBLIC_IPADDR is not set: set it to the public address of this instance")
      [[ -n ${!public_port-} ]] || faults+=("$public_port is not set: set it to the public port of port $WORKER_PORT")
    fi
  fi
  if ((${#faults[@]} > 0)); then
    fail "${faults[@]}"
  fi
}

is_true() {
  [[ ${1,,} =~ ^(true|1|yes|on)$ ]]
}

is_false() {
  [[ ${1,,} =~ ^(false|0|no|off)$ ]]
}

worker_names() {
  local path names=()
  for path in workers/*/server.py; do
    path=${path%/server.py}
    names+=("${path#workers/}")
  done
  printf '%s' "${names[*]}"
}

# An update that fails must not keep the version that is here from serving.
update_if_asked() {
  local flag=${PYWORKER_UPDATE_FLAG:-/.force_update} before
  [[ -e $flag ]] || return 0
  printf 'An update is asked for by %s:\n' "$flag"
  before=$(version_here)
  if ! update; then
    note "the update failed, $DEBUG_LOG says why; the version that is here is started, the next start tries again"
  elif ! rm -f -- "$flag"; then
    note "the update is done, but $flag cannot be removed: every start will update"
  elif [[ $(version_here) != "$before" ]]; then
    become_the_new_version
  fi
}

# The requirements of the new version are installed before it is there, so that what is here works at any moment.
update() {
  local wanted=requirements.txt
  if follows_a_branch; then
    wanted=$WORKSPACE_DIR/.requirements.new
    run "fetching the newest version" env GIT_TERMINAL_PROMPT=0 timeout "$UPDATE_SECONDS" git fetch || return 1
    git show "@{upstream}:requirements.txt" >"$wanted" || return 1
  else
    printf '  no git checkout that follows a branch: only what is installed is updated\n'
  fi
  rm -f "$STAMP"
  "$PYTHON" -m pip --version >/dev/null 2>&1 || make_venv
  run "updating what is installed" \
    "$PYTHON" -m pip install --disable-pip-version-check --upgrade -r "$wanted" || return 1
  if [[ $wanted != requirements.txt ]]; then
    rm -f -- "$wanted"
    run "taking over the newest version" git merge --ff-only "@{upstream}" || return 1
  fi
  fingerprint >"$STAMP"
}

follows_a_branch() {
  [[ -e .git ]] && command -v git >/dev/null && git rev-parse "@{upstream}" >/dev/null 2>&1
}

version_here() {
  if follows_a_branch; then
    git rev-parse HEAD
  fi
}

# The new script begins anew: with the terminal as it was, and without the lock, which it takes itself.
become_the_new_version() {
  printf 'The new version takes over.\n'
  close_debug_log
  exec 9>&- {TERMINAL}>&-
  exec "$BASH" ./start_server.sh
}

# What is there and good is kept; see pyworker/instance/certificate.py.
prepare_certificate() {
  is_true "$USE_SSL" || return 0
  require_openssl
  if ! inquire python3 -I pyworker/instance/certificate.py --console "${CONSOLE_URL:-https://console.vast.ai}" \
    --instance "${CONTAINER_ID:-0}" --address "${PYWORKER_PUBLIC_URL:-${PUBLIC_IPADDR-}}" \
    --key "${SSL_KEYFILE:-/etc/instance.key}" --certificate "${SSL_CERTFILE:-/etc/instance.crt}" \
    --patience "${CERTIFICATE_TIMEOUT:-120}"; then
    fail "${ANSWER[@]}"
  fi
}

require_openssl() {
  if command -v openssl >/dev/null; then
    return
  fi
  if can_install; then
    # The console is asked over TLS, for which a bare system lacks the roots too.
    install_packages openssl ca-certificates || true
  fi
  command -v openssl >/dev/null ||
    fail "the command openssl is missing, which USE_SSL=true needs. Install it and start again:" \
      "    apt-get update && apt-get install -y openssl ca-certificates"
}

# The worker reads the log from its beginning, where lines of an earlier run would mislead it.
set_model_log_aside() {
  if [[ -n ${MODEL_LOG-} && -s $MODEL_LOG ]] && ! is_true "${KEEP_MODEL_LOG-}"; then
    set_aside "$MODEL_LOG"
  fi
  # Once: a new version of this script, to which an update leads, finds lines of this run in it.
  export KEEP_MODEL_LOG=true
}

# Serve, with every signal passed on to gunicorn, until it ends. Where nobody asked for that, become the beacon
# that reports why.
serve_until_told() {
  local name status=0 output copy log_size
  log_size=$(wc -c <"$WORKER_LOG")
  for name in TERM INT QUIT HUP USR1; do
    # shellcheck disable=SC2064 # the name of now
    trap "pass_on $name" "$name"
  done
  exec {output}> >(keep_copy "$WORKER_LOG")
  copy=$!
  if [[ -z $ASKED ]]; then
    spawn "The worker" - "" "$PYTHON" -m gunicorn -c gunicorn.conf.py "pyworker:create_app(\"$BACKEND\")" \
      >&"$output" 2>&1
    WORKER=${CHILDREN[-1]}
    await_worker || status=$?
    CHILDREN=()
  fi
  exec {output}>&-
  wait "$copy" || true
  if [[ -n $ASKED || $status == 0 ]]; then
    UNREPORTED=false
    exit "$status"
  fi
  become_the_beacon "$(why_it_ended "$status" "$log_size")"
}

# pass_on SIGNAL: bash's own list is asked, since the worker's start and the note of its id are two steps.
pass_on() {
  local pid
  if [[ $1 == TERM || $1 == INT || $1 == QUIT ]]; then
    ASKED=$1
  fi
  INTERRUPTED=true
  for pid in $(jobs -p); do
    kill "-$1" "$pid" 2>/dev/null || true
  done
}

# Returns the worker's status; a signal that is passed on interrupts the waiting.
await_worker() {
  local status
  while true; do
    INTERRUPTED=false
    status=0
    wait "$WORKER" || status=$?
    if [[ $INTERRUPTED == false ]]; then
      return "$status"
    fi
  done
}

# why_it_ended STATUS SIZE: of the lines behind the first SIZE bytes of its log, the one that says it best.
why_it_ended() {
  local lines reason
  if (($1 > 128)); then
    printf 'the worker was ended from outside (signal %s); is there enough memory?' "$(($1 - 128))"
    return
  fi
  lines=$(tail -c "+$(($2 + 1))" -- "$WORKER_LOG" | tail -n 50 | grep '[^[:space:]]' || true)
  reason=$(sed -n 's/^.*pyworker: //p' <<<"$lines" | tail -n 1)
  printf 'the worker ended by itself (status %s): %s' "$1" "${reason:-$(tail -n 1 <<<"$lines")}"
}

become_the_beacon() {
  note "$1" "this is reported every 10 s until process $$ is ended"
  trap - EXIT INT TERM QUIT HUP USR1
  exec python3 -I pyworker/beacon.py "$1"
}

for name in MODEL_LOG WORKSPACE_DIR; do
  if [[ -n ${!name-} && ${!name} != /* ]]; then
    export "$name=$PWD/${!name}"
  fi
done
cd -- "$(dirname -- "${BASH_SOURCE[0]}")"
main "$@"
