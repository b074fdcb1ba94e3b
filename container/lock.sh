#!/usr/bin/env bash
# Writes container/requirements.txt: what the images install, exactly, from what pyproject.toml allows.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
command -v uv >/dev/null || { echo "container/lock.sh: needs uv (pip install uv)" >&2; exit 1; }
{
    echo "# What the images install, exactly: \`make lock\` writes this file from pyproject.toml."
    env -u PIP_FIND_LINKS uv pip compile pyproject.toml --python-platform linux --python-version 3.13 \
        --no-annotate --no-header --quiet
} >container/requirements.new
mv container/requirements.new container/requirements.txt
