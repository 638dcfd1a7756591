#!/usr/bin/env bash
# Runs an MLflow tracking server for several machines: SQLite and a folder, on loopback unless told otherwise.
#   mlflow/serve.sh [FOLDER]        HOST=0.0.0.0 PORT=5000 ALLOWED_HOSTS=name:5000 mlflow/serve.sh FOLDER
set -euo pipefail

folder="${1:-.edgealign/mlflow-server}"
host="${HOST:-127.0.0.1}"
port="${PORT:-5000}"

mkdir -p "$folder/artifacts"
folder="$(cd "$folder" && pwd)"

arguments=(--host "$host" --port "$port" --workers 1)
arguments+=(--backend-store-uri "sqlite:///$folder/mlflow.db")
arguments+=(--artifacts-destination "$folder/artifacts")
if [[ -n "${ALLOWED_HOSTS:-}" ]]; then
  arguments+=(--allowed-hosts "$ALLOWED_HOSTS")
fi

# MLflow's background jobs serve features that edgealign does not use, and cost some 480 MB of memory.
export MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false
cd "$folder"
exec mlflow server "${arguments[@]}"
