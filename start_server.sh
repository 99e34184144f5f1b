#!/bin/sh
# Starts a worker: the whole demo on one machine, or the one worker of an instance. --help says how.
#
# This file finds Python 3.10 or newer, and installs it on a bare Debian or Ubuntu if it may. All else, .venv
# included, is done by pyworker.instance, which needs nothing but Python's standard library.
set -eu

main() {
  cd -- "$(dirname -- "$0")"
  case "${1-}" in
    "") module=pyworker.instance.launcher ;;
    demo) module=pyworker.local.demo ;;
    -h | --help) exec cat pyworker/instance/usage.txt ;;
    *)
      printf 'start_server.sh: unknown argument: %s\n\n' "$1" >&2
      cat pyworker/instance/usage.txt >&2
      exit 2
      ;;
  esac
  if ! command -v python3 >/dev/null; then
    if [ $# = 0 ]; then
      set_model_log_aside
    fi
    install_python
    command -v python3 >/dev/null ||
      fail "python3 is missing. Install it and start again: apt-get update && apt-get install -y python3 python3-venv"
  elif [ ! -e .venv/.requirements-installed ] && ! python3 -c 'import ensurepip, venv' >/dev/null 2>&1; then
    # Debian and Ubuntu leave half of Python's venv module to a package of its own.
    install_python
  fi
  python3 -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
    fail "python3 is $(python3 -V 2>&1 | cut -d ' ' -f 2), but 3.10 or newer is needed."
  exec python3 -E -s -m "$module" "$@"
}

# Returns without a change if this user may not install, and without Python if that failed.
install_python() {
  if command -v apt-get >/dev/null && [ "$(id -u)" = 0 ]; then
    echo "  installing python3 and python3-venv" >&2
    # An old list of packages is good enough if no new one can be fetched.
    apt-get update >/dev/null || true
    DEBIAN_FRONTEND=noninteractive apt-get install -y python3 python3-venv >/dev/null || true
  fi
}

# Installing takes minutes, in which the model logs what the worker has to read: if older lines go, they go now.
set_model_log_aside() {
  case "${ROTATE_MODEL_LOG-}" in
    [Tt]rue | TRUE | 1 | [Yy]es | YES | [Oo]n | ON)
      if [ -s "${MODEL_LOG-}" ] && cp -- "$MODEL_LOG" "$MODEL_LOG.old"; then
        true >"$MODEL_LOG" || true
      fi
      export ROTATE_MODEL_LOG=false
      ;;
  esac
}

# fail LINE: the last words; on an instance for its log and the autoscaler too, as far as that is possible.
fail() {
  printf 'start_server.sh: %s\n' "$1" >&2
  if [ "$arguments" = 0 ]; then
    { printf 'start_server.sh: %s\n' "$1" >>"${WORKSPACE_DIR:-/workspace}/debug.log"; } 2>/dev/null || true
    if command -v python3 >/dev/null; then
      USE_SSL=${USE_SSL:-true} python3 -I pyworker/instance/beacon.py --once "$1" || true
    fi
  fi
  exit 1
}

arguments=$#
# A relative path is relative to the caller's folder.
case "${MODEL_LOG:-/}" in
  /*) ;;
  *) export MODEL_LOG="$PWD/$MODEL_LOG" ;;
esac
case "${WORKSPACE_DIR:-/}" in
  /*) ;;
  *) export WORKSPACE_DIR="$PWD/$WORKSPACE_DIR" ;;
esac
main "$@"
