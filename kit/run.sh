#!/usr/bin/env bash
# Run a suite on a machine that reaches nothing, from the root of a checkout: docs/offline.md.
#   kit/run.sh PIECES [--jobs 4] [--limit 480] [--help]
set -euo pipefail
if [ ! -d kit ] || [ ! -d lapml ]; then
    echo "error: $PWD: holds no lapml and kit; run kit/run.sh from the root of a checkout" >&2
    exit 1
fi
exec "${PYTHON:-python3}" -m kit run "$@"
