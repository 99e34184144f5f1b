#!/usr/bin/env bash
# Starts a worker: the whole demo on one machine, or the one worker of an instance. See usage below.
set -euo pipefail

readonly DEMO_DIR=.pyworker
readonly SETUP_LOG=$DEMO_DIR/setup.log
readonly PYTHON=.venv/bin/python
readonly STAMP=.venv/.requirements-installed
readonly READY_SECONDS=90

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

Without arguments: serve the worker BACKEND as on an instance, with USE_SSL=true unless it is set.

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

fail() {
  end_line
  printf 'start_server.sh: %s\n' "$@" >&2
  exit 1
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

# show_log FILE: its last lines, indented, as part of an error message.
show_log() {
  end_line
  printf '\nThe last lines of %s:\n' "$1" >&2
  tail -n 15 -- "$1" | sed 's/^/    /' >&2
  printf '\n' >&2
}

# --- children ----------------------------------------------------------------------------------------------

# Each child gets a session of its own, so that Ctrl-C reaches this script first and everything ends in
# order, and a death signal for the case that this script is killed without a chance to say goodbye.
prepare_launch() {
  if setsid true 2>/dev/null; then
    LAUNCH+=(setsid)
  fi
  if setpriv --pdeathsig TERM true 2>/dev/null; then
    LAUNCH+=(setpriv --pdeathsig TERM)
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
  if ! command -v apt-get >/dev/null; then
    show_log "$SETUP_LOG"
    fail "python3 -m venv does not work. Install your system's package of Python's venv module, then start again."
  fi
  if (($(id -u) != 0)); then
    show_log "$SETUP_LOG"
    fail "python3 -m venv does not work. Run this command, then start again:" \
      "    sudo apt-get update && sudo apt-get install -y python3-venv"
  fi
  # A list of packages that is a little old is good enough, where it cannot be fetched.
  run "updating the list of packages" apt-get update || true
  if ! run "installing python3-venv" env DEBIAN_FRONTEND=noninteractive apt-get install -y python3-venv ||
    ! run "making .venv" python3 -m venv --clear .venv; then
    show_log "$SETUP_LOG"
    fail "python3 -m venv does not work, and installing python3-venv did not help." \
      "Is $(command -v python3) the system's own Python? What it said is above."
  fi
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
  require_python
  demo_ports
  demo_environment
  prepare_launch
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

# require_free_ports NAME=PORT...: fail with a line for each that is no port, given twice, or taken. /proc is
# read by hand, since neither ss nor lsof need be there.
require_free_ports() {
  python3 -IS - "$@" <<'END' || exit 1
import os, pathlib, socket, sys


def holders(port):
    """Processes that listen on the port, as far as this user may see."""
    inodes = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        lines = pathlib.Path(table).read_text().splitlines()[1:] if os.path.exists(table) else []
        rows = [line.split() for line in lines]
        inodes |= {f"socket:[{row[9]}]" for row in rows if row[3] == "0A" and int(row[1].split(":")[1], 16) == port}
    for process in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            if inodes & {os.readlink(entry) for entry in (process / "fd").iterdir()}:
                yield f"process {process.name} ({(process / 'comm').read_text().strip()})"
        except OSError:
            pass


def fault(name, text, before):
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= 65535):
        return f"{name}={text} is not valid: expected a port from 1 to 65535"
    if int(text) in before:
        return f"{name}={text}: the same port is given twice"
    before.add(int(text))
    try:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", int(text)))
    except PermissionError:
        return f"{name}={text} is reserved for root: set {name} to another port"
    except OSError:
        who = ", ".join(sorted(holders(int(text)))) or "a process of another user"
        return f"port {text} is taken by {who}: end it, or set {name} to another port"


seen = set()
faults = [found for name, _, port in (given.partition("=") for given in sys.argv[1:]) if (found := fault(name, port, seen))]
for line in faults:
    sys.stderr.write(f"start_server.sh: {line}\n")
sys.exit(bool(faults))
END
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
  await "waiting for the worker on port $WORKER_PORT" http_get "$WORKER_PORT" /ping
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
  check_settings
  require_python
  prepare_launch
  begin_setup_log
  prepare_venv
  set_old_log_aside
  exec "$PYTHON" -m gunicorn -c gunicorn.conf.py "pyworker:create_app(\"$BACKEND\")"
}

# Name everything that is missing at once. Whether a value is valid is checked by pyworker.config.
check_settings() {
  local public_port=VAST_TCP_PORT_$WORKER_PORT faults=()
  if [[ ! $WORKER_PORT =~ ^[0-9]+$ ]]; then
    fail "WORKER_PORT=$WORKER_PORT is not valid: expected a port from 1 to 65535"
  fi
  if [[ -z ${BACKEND-} ]]; then
    faults+=("BACKEND is not set: set it to the name of a worker (here: $(worker_names))")
  elif [[ ! $BACKEND =~ ^[A-Za-z0-9_.-]+$ ]]; then
    faults+=("BACKEND is not a worker's name: set it to one of $(worker_names), or to the dotted path of a package")
  fi
  if [[ -z ${MODEL_LOG-} ]]; then
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

# The worker reads the log from its beginning, where lines of an earlier run would mislead it. The file stays
# the same one, for a model server that has it open.
set_old_log_aside() {
  if [[ -s $MODEL_LOG ]]; then
    cp -- "$MODEL_LOG" "$MODEL_LOG.old"
    : >"$MODEL_LOG"
  fi
}

if [[ -n ${MODEL_LOG-} && $MODEL_LOG != /* ]]; then
  MODEL_LOG=$PWD/$MODEL_LOG
  export MODEL_LOG
fi
cd -- "$(dirname -- "${BASH_SOURCE[0]}")"
main "$@"
