#!/bin/bash
# Stands in for the bootstrap that an instance of the public service pipes into bash: the same steps in the same
# order, with the tools it uses. Run by tests/instance/test_bootstrap.py, whose supervisor is around it.
set -eo pipefail

workspace=${WORKSPACE_DIR:-/workspace}
environment=${ENV_PATH:-$workspace/worker-env}
checkout=$workspace/vast-pyworker
REPORT_ADDR=${REPORT_ADDR:-https://run.vast.ai}
USE_SSL=${USE_SSL:-true}
WORKER_PORT=${WORKER_PORT:-3000}
mkdir -p "$workspace"
cd "$workspace"
exec > >(tee -a "$workspace/debug.log") 2>&1

[ -n "${BACKEND:-}" ] || { echo "BACKEND is not set"; exit 1; }

if [ ! -d "$checkout" ]; then
  git clone --quiet ${PYWORKER_REF:+--branch "$PYWORKER_REF"} "$PYWORKER_REPO" "$checkout"
fi
if [ ! -e "$environment/.complete" ]; then
  echo "making the environment"
  uv venv --clear -p "${PYTHON_VERSION:-3.10}" "$environment"
  VIRTUAL_ENV=$environment uv pip install -r "$checkout/requirements.txt"
  VIRTUAL_ENV=$environment uv pip install vastai
  touch "$environment/.complete"
fi
# shellcheck disable=SC1091
. "$environment/bin/activate"

if [ "$USE_SSL" = true ]; then
  openssl req -newkey rsa:2048 -nodes -subj /CN=instance -addext subjectAltName=IP:0.0.0.0 \
    -keyout /etc/instance.key -out /etc/instance.csr 2>/dev/null
  for try in 1 2 3 4 5; do
    curl --silent --fail --max-time 5 --header "Content-Type: application/octet-stream" \
      --data-binary @/etc/instance.csr --output /etc/instance.crt \
      "$CONSOLE_URL/api/v0/sign_cert/?instance_id=$CONTAINER_ID" && break
    echo "no certificate at try $try"
    sleep 0.2
  done
fi
env | grep _ >>/etc/environment || true

if [ "${ROTATE_MODEL_LOG:-false}" = true ] && [ -e "${MODEL_LOG:-}" ]; then
  cat "$MODEL_LOG" >>"$MODEL_LOG.old" && : >"$MODEL_LOG"
fi
export REPORT_ADDR USE_SSL WORKER_PORT
[ -z "${UNSECURED:-}" ] || export UNSECURED

cd "$checkout"
echo "launching the worker"
for module in worker "workers.$BACKEND.worker" "workers.$BACKEND.server"; do
  set +e
  python3 -m "$module" |& tee -a "$workspace/pyworker.log"
  status=${PIPESTATUS[0]}
  set -e
  echo "$module ended with status $status"
  [ "$status" != 0 ] || break
done
exit "$status"
