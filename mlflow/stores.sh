# Sourced by serve.sh, backup.sh and restore.sh with `folder` set: where the databases and the files are.
umask 077
mkdir -p "$folder"
folder="$(cd "$folder" && pwd)"
export MLFLOW_BACKEND_STORE_URI="${MLFLOW_BACKEND_STORE_URI:-sqlite:///$folder/mlflow.db}"
export MLFLOW_ARTIFACTS_DESTINATION="${MLFLOW_ARTIFACTS_DESTINATION:-$folder/artifacts}"
export ACCOUNTS_DATABASE_URI="${ACCOUNTS_DATABASE_URI:-sqlite:///$folder/accounts.db}"
# SQLAlchemy would take a postgresql: address to another driver than the one that is installed
for name in MLFLOW_BACKEND_STORE_URI ACCOUNTS_DATABASE_URI; do
  if [[ "${!name}" =~ ^postgres(ql)?:(.*) ]]; then
    export "$name=postgresql+psycopg2:${BASH_REMATCH[2]}"
  fi
done
