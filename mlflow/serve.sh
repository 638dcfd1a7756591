#!/usr/bin/env bash
# Runs an MLflow tracking server for a team: accounts on, SQLite and a folder, on loopback unless told otherwise.
#   mlflow/serve.sh [FOLDER]
# The folder keeps what the server keeps to itself: admin-password, secret-key, accounts.db, and without the two below, all.
#   HOST=0.0.0.0 PORT=5000 ALLOWED_HOSTS=name:5000   where it listens, and the names under which it answers
#   MLFLOW_BACKEND_STORE_URI=postgresql://...        a database in place of FOLDER/mlflow.db
#   MLFLOW_ARTIFACTS_DESTINATION=s3://bucket/path    a store of files in place of FOLDER/artifacts
#       with AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and, for a store that is not Amazon's, MLFLOW_S3_ENDPOINT_URL
#   ACCOUNTS_DATABASE_URI=postgresql://...           a database in place of FOLDER/accounts.db
#   MLFLOW_AUTH_ADMIN_PASSWORD=...                   in place of one made up at the first start
#   WORKERS=2                                        server processes; 1 unless told otherwise
#   AUTHENTICATION=off                               no accounts; on loopback only
# Passwords are taken from the environment and from files of mode 0600, never from a command line.
set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
folder="${1:-.edgealign/mlflow-server}"
host="${HOST:-127.0.0.1}"

if [[ "${AUTHENTICATION:-on}" == off && ! "$host" =~ ^(127\.|localhost$|::1$) ]]; then
  echo "serve.sh: AUTHENTICATION=off with HOST=$host would let anybody read and change every run. Without accounts the" \
    "server stays on loopback: leave HOST out, or AUTHENTICATION." >&2
  exit 2
fi

source "$here/stores.sh"
python "$here/prepare.py" "$folder"

arguments=(--host "$host" --port "${PORT:-5000}" --workers "${WORKERS:-1}")
# requests name adapters, and so their users: a log of them would outlive an erasure
arguments+=(--uvicorn-opts "--no-access-log")
if [[ -n "${ALLOWED_HOSTS:-}" ]]; then
  arguments+=(--allowed-hosts "$ALLOWED_HOSTS")
fi
if [[ "${AUTHENTICATION:-on}" != off ]]; then
  arguments+=(--app-name basic-auth)
  export MLFLOW_AUTH_CONFIG_PATH="$folder/accounts.ini"
  MLFLOW_FLASK_SERVER_SECRET_KEY="$(<"$folder/secret-key")"
  export MLFLOW_FLASK_SERVER_SECRET_KEY
  if [[ -z "${MLFLOW_AUTH_ADMIN_PASSWORD:-}" && -f "$folder/admin-password" ]]; then
    MLFLOW_AUTH_ADMIN_PASSWORD="$(<"$folder/admin-password")"
    export MLFLOW_AUTH_ADMIN_PASSWORD
  fi
fi

# MLflow's background jobs serve features that edgealign does not use, and cost some 480 MB of memory.
export MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false
cd "$folder"
exec python -m mlflow server "${arguments[@]}"
