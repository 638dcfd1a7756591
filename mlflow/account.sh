#!/usr/bin/env bash
# Makes an account on a tracking server:  mlflow/account.sh http://127.0.0.1:5000 NAME
# Asks for the new password (12 characters and more), or reads it from a pipe. Needs the admin's account in
# MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD; serve.sh keeps the password in FOLDER/admin-password.
set -euo pipefail

if [[ $# != 2 ]]; then
  echo "usage: mlflow/account.sh http://HOST:PORT NAME" >&2
  exit 2
fi
if [[ -z "${MLFLOW_TRACKING_USERNAME:-}" || -z "${MLFLOW_TRACKING_PASSWORD:-}" ]]; then
  echo "account.sh: set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD to the admin's account" >&2
  exit 2
fi
if [[ -t 0 ]]; then
  IFS= read -rs -p "new password for $2: " password && echo
else
  IFS= read -r password
fi

cd /  # nothing of a project is imported
PASSWORD="$password" exec python - "$1" "$2" <<'PROGRAM'
import os
import sys

import requests

address, name = sys.argv[1:]
account = (os.environ["MLFLOW_TRACKING_USERNAME"], os.environ["MLFLOW_TRACKING_PASSWORD"])
try:
    answer = requests.post(
        f"{address.rstrip('/')}/api/2.0/mlflow/users/create",
        json={"username": name, "password": os.environ["PASSWORD"]},
        auth=account,
        timeout=20,
        verify=os.environ.get("MLFLOW_TRACKING_SERVER_CERT_PATH") or True,
    )
except requests.RequestException as error:
    sys.exit(f"account.sh: {address} does not answer: {error}")
if answer.status_code != 200:
    sys.exit(f"account.sh: the server said {answer.status_code}: {answer.text[:300]}")
print(f"{name} has an account.")
PROGRAM
