#!/usr/bin/env bash
# Copies what a tracking server keeps, while it runs:  mlflow/backup.sh FOLDER TARGET
# with the environment of serve.sh. TARGET is a new folder: runs.dump, accounts.dump, artifacts/, SHA256SUMS; it appears
# whole or not at all. Databases first: a run that they name has its files by then. Do not prune or erase meanwhile.
set -euo pipefail

if [[ $# != 2 ]]; then
  echo "usage: mlflow/backup.sh FOLDER TARGET   (FOLDER as serve.sh has it; TARGET a new folder)" >&2
  exit 2
fi
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
folder="$1"
target="$2"
if [[ -e "$target" ]]; then
  echo "backup.sh: $target is there already; name a new folder" >&2
  exit 1
fi
if [[ -z "${MLFLOW_BACKEND_STORE_URI:-}" && ! -f "$folder/mlflow.db" ]]; then
  echo "backup.sh: $folder holds no mlflow.db, and MLFLOW_BACKEND_STORE_URI names no other database" >&2
  exit 1
fi
source "$here/stores.sh"

part="$target.part"
rm -rf "$part"
mkdir -p "$part/artifacts"
trap 'rm -rf "$part"' EXIT
python "$here/archive.py" backup "$part"
(cd "$part" && find . -type f ! -name SHA256SUMS -print0 | sort -z | xargs -0 sha256sum >SHA256SUMS)
sync
mv "$part" "$target"
trap - EXIT
echo "backup.sh: $target, $(wc -l <"$target/SHA256SUMS") files, $(du -sh "$target" | cut -f1)"
