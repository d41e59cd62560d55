#!/usr/bin/env bash
# Writes the four lock files anew: exact versions with hashes, for every system, and no registry's name.
#
#   requirements.lock              the environment, without the package PIL
#   launch/locks/tools.lock        what installs it: pip, uv, and what building from source needs
#   launch/locks/pillow.lock       PIL where pillow-simd cannot be built
#   launch/locks/pillow_simd.lock  PIL where it can, as source
#
#   launch/lock.sh                 keeps the versions that pyproject.toml still allows
#   launch/lock.sh --upgrade       takes the newest versions (any option of `uv pip compile` may follow)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
uv=.venv/bin/uv
[[ -x $uv ]] || uv=$(command -v uv) || { echo "lock: run launch/environment.sh first, it installs uv" >&2; exit 2; }

# Usage: lock FILE "WHAT IT HOLDS" ARGUMENTS...   (requirements as arguments or on standard input)
lock() {
    local file=$1 title=$2
    shift 2
    touch "$file"
    "$uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
        --output-file "$file" "$@"
    { printf '# %s\n# Made by launch/lock.sh from pyproject.toml.\n' "$title"; cat "$file"; } >"$file.new"
    mv "$file.new" "$file"
}

lock requirements.lock "Every distribution of the environment but PIL, which launch/locks/ holds." \
    --all-extras --no-emit-package pillow "$@" pyproject.toml
lock launch/locks/tools.lock "What installs the environment and builds from source." \
    --constraints requirements.lock "$@" - <<<$'pip\nuv\nsetuptools>=77\npybind11'
lock launch/locks/pillow.lock "PIL as stock pillow, where pillow-simd cannot be built." \
    --no-deps "$@" - <<<'pillow>=12.1'
lock launch/locks/pillow_simd.lock "PIL as pillow-simd: the source that launch/environment.sh builds." \
    --no-deps --no-binary pillow-simd "$@" - <<<'pillow-simd==12.1.1.post0'
