#!/usr/bin/env bash
# Puts a copy that backup.sh made into empty stores:  mlflow/restore.sh FOLDER SOURCE
# with the environment that serve.sh is to have. Databases and bucket are made where they are not there; stores that hold
# something are left alone: name new ones, and the old stay aside.
set -euo pipefail

if [[ $# != 2 ]]; then
  echo "usage: mlflow/restore.sh FOLDER SOURCE   (FOLDER as serve.sh will have it; SOURCE as backup.sh made it)" >&2
  exit 2
fi
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
folder="$1"
if [[ ! -f "$2/SHA256SUMS" ]]; then
  echo "restore.sh: $2 holds no SHA256SUMS: not a copy that backup.sh made, or one that was cut off" >&2
  exit 1
fi
source="$(cd "$2" && pwd)"

# every file is as it was, and none is there that was not
if ! (cd "$source" && sha256sum --check --quiet --strict SHA256SUMS) >&2; then
  echo "restore.sh: $source is damaged (above: which files). Nothing was changed; take another copy" >&2
  exit 1
fi
if ! diff <(cd "$source" && find . -type f ! -name SHA256SUMS | sort) <(cut -c67- "$source/SHA256SUMS" | sort) >/dev/null; then
  echo "restore.sh: $source holds files that were not copied by backup.sh. Nothing was changed" >&2
  exit 1
fi
source "$here/stores.sh"
python "$here/archive.py" restore "$source"
echo "restore.sh: done. Start the server: mlflow/serve.sh $folder"
echo "restore.sh: whoever was forgotten after the copy was made is in it again: run \`edgealign cohort forget\` for them"
