#!/usr/bin/env bash
# Makes the environment of this repository in .venv: Python packages by lock file and hash, pillow-simd built for this
# machine, the project itself. Says nothing and takes a moment when there is nothing to do.
#
#   launch/environment.sh                      then use .venv/bin/reid, or: source .venv/bin/activate
#   PYTHON=python3.12 launch/environment.sh    with an interpreter of your choice
#   launch/environment.sh --packages           without the project: the lower, large layer of docker/Dockerfile
#
# In order: find Python, decide which PIL this machine can have, compare with what .venv says it is, and only if that
# differs: Debian packages (as root), virtual environment, locked packages, PIL, project, `pip check`.
# Files in .venv say what it is: `made-by-launch` from the first moment, `packages` and `project` once those are
# complete. A directory without `packages` is an interrupted installation and is started afresh.
# Exit codes: 0 ready, 1 an installation failed (its log is named), 2 something is missing that only you can install.
set -euo pipefail

root=$(cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/.." && pwd)
venv=$root/.venv
locks=$root/launch/locks
log=$venv/install.log
oldest_python=3.11
newest_locked_python=3.14

say() { printf 'environment: %s\n' "$*" >&2; }

stop() {
    say "$@"
    exit 2
}

# Usage: step "WHAT IS DONE" COMMAND...   Its output goes to the log; of a failure the last lines are shown.
step() {
    local title=$1
    shift
    say "$title"
    printf '\n== %s\n   %s\n' "$title" "$*" >>"$log"
    "$@" >>"$log" 2>&1 </dev/null || {
        local status=$?
        say "failed: $title (exit code $status). The last lines of $log:"
        tail -n 12 "$log" >&2
        return "$status"
    }
}

# --- What is here -----------------------------------------------------------------------------------------------------

# Prints the interpreter behind program $1 (a shim, a link, a virtual environment), or fails if it is too old, or newer
# than $2.
recent_python() {
    local newest=${2:-4.0}
    "$1" -c "import sys
fits = (${oldest_python/./, }) <= sys.version_info[:2] <= (${newest/./, })
print(sys._base_executable) if fits else sys.exit('too old or too new')" 2>/dev/null
}

# Prints the interpreter: PYTHON, or the one .venv was made with, or the first on the PATH that the locks cover, or a
# python3 that is newer.
find_python() {
    local candidate
    if [[ -n ${PYTHON:-} ]]; then
        command -v "$PYTHON" >/dev/null || stop "PYTHON=$PYTHON: there is no such program."
        recent_python "$PYTHON" && return
        stop "PYTHON=$PYTHON: expected Python >= $oldest_python, found $("$PYTHON" --version 2>&1 || true)."
    fi
    if [[ -f $venv/packages ]] && recent_python "$venv/bin/python"; then return; fi
    for candidate in python3 python3.14 python3.13 python3.12 python3.11; do
        if recent_python "$candidate" "$newest_locked_python"; then return; fi
    done
    recent_python python3 || true
}

version_of_python() { "$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])'; }

python_header() { "$python" -c 'import sysconfig; print(sysconfig.get_path("include") + "/Python.h")'; }

cpu_has_avx2() { [[ $(uname -s)/$(uname -m) == Linux/x86_64 ]] && grep -qm1 '\bavx2\b' /proc/cpuinfo; }

header_exists() { printf '#include <stdio.h>\n#include <%s>\n' "$1" | cc -E - >/dev/null 2>&1; }

# Prints the Debian packages that are missing, one a line.
missing_packages() {
    if [[ -z $python ]]; then
        printf '%s\n' python3 python3-venv python3-dev
    elif [[ $python == /usr/bin/* ]]; then
        "$python" -c 'import ensurepip, venv' 2>/dev/null || echo "python$(version_of_python)-venv"
        [[ -f $(python_header) ]] || echo "python$(version_of_python)-dev"
    fi
    [[ -d /etc/ssl/certs && -n $(ls -A /etc/ssl/certs) ]] || echo ca-certificates
    cpu_has_avx2 || return 0
    header_exists stdio.h || printf '%s\n' gcc libc6-dev
    header_exists jpeglib.h || echo libjpeg-dev
    header_exists zlib.h || echo zlib1g-dev
}

# Prints why pillow-simd cannot be built here, or nothing.
obstacle_to_simd() {
    if ! cpu_has_avx2; then
        echo "this is $(uname -s) on $(uname -m) without AVX2"
    elif ! header_exists stdio.h; then
        echo "there is no C compiler (Debian: gcc libc6-dev)"
    elif ! header_exists jpeglib.h || ! header_exists zlib.h; then
        echo "the headers of libjpeg or zlib are missing (Debian: libjpeg-dev zlib1g-dev)"
    elif [[ ! -f $(python_header) ]]; then
        echo "$python has no Python.h (Debian: python3-dev)"
    fi
}

# Prints what complete packages for this checkout on this machine would say of themselves. What was built needs no
# compiler any more: an image has none.
wanted_packages() {
    local simd='obstacle to pillow-simd: '
    printf 'root: %s\n' "$root"
    "$python" -c 'import sys; print("python:", sys.base_prefix, sys.version.replace("\n", " "))'
    if cpu_has_avx2 && grep -qxs "$simd" "$venv/packages"; then echo "$simd"; else echo "$simd$(obstacle_to_simd)"; fi
    (cd "$root" && cksum requirements.lock launch/locks/*.lock launch/environment.sh launch/pillow_simd.py)
}

wanted_project() { cksum <"$root/pyproject.toml"; }

packages_are_ready() { [[ -n $python && -f $venv/packages ]] && cmp -s <(wanted_packages) "$venv/packages"; }

project_is_ready() { [[ $project == unwanted ]] || cmp -s <(wanted_project) "$venv/project"; }

is_ready() { packages_are_ready && project_is_ready; }

# --- What is made -----------------------------------------------------------------------------------------------------

may_install_debian_packages() { ((EUID == 0)) && command -v apt-get >/dev/null; }

# What cannot be had is said by those who need it: `require_python`, `obstacle_to_simd`.
install_debian_packages() {
    local packages
    mapfile -t packages < <(missing_packages)
    ((${#packages[@]})) || return 0
    export DEBIAN_FRONTEND=noninteractive
    step "Debian's package lists" apt-get -o DPkg::Lock::Timeout=300 update || return 0
    step "Debian packages: ${packages[*]}" \
        apt-get -o DPkg::Lock::Timeout=300 install -y --no-install-recommends "${packages[@]}" || return 0
}

require_python() {
    local complaint remedy packages
    if [[ -z $python ]]; then
        complaint="Python >= $oldest_python is missing"
        ! command -v python3 >/dev/null || complaint+=" (python3 is $(python3 --version 2>&1 || true))"
    elif ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
        complaint="$python cannot make virtual environments"
    else
        return 0
    fi
    mapfile -t packages < <(missing_packages)
    remedy="Install Python with its module venv"
    ! command -v apt-get >/dev/null || remedy="As root: apt-get install ${packages[*]}"
    stop "$complaint. $remedy. Or name another interpreter: PYTHON=/path/to/python $0"
}

make_virtual_environment() {
    step "virtual environment of $("$python" --version) in $venv" "$python" -m venv "$venv"
    step "pip and uv" "$venv/bin/python" -m pip install --require-hashes --only-binary :all: -r "$locks/tools.lock"
    # uv does not read pip's configuration: hand on the certificates of the system and the index of the site.
    export UV_SYSTEM_CERTS=true UV_HTTP_TIMEOUT=${UV_HTTP_TIMEOUT:-180}
    local index=${PIP_INDEX_URL:-$("$venv/bin/python" -m pip config get global.index-url 2>/dev/null || true)}
    [[ -z $index ]] || export UV_DEFAULT_INDEX=${UV_DEFAULT_INDEX:-$index}
}

uv_install() { "$venv/bin/uv" pip install --python "$venv/bin/python" "$@"; }

install_packages() {
    local version
    version=$(version_of_python)
    if ((${version#3.} > ${newest_locked_python#3.})); then
        say "NOTE: requirements.lock covers Python $oldest_python to $newest_locked_python."
        say "NOTE: this is Python $version: the newest versions are taken, without hashes."
        step "packages of pyproject.toml" uv_install --only-binary :all: --all-extras -r "$root/pyproject.toml"
        return
    fi
    step "locked packages (several gigabytes, half a minute to a few minutes)" \
        uv_install --require-hashes --no-deps --only-binary :all: -r "$root/requirements.lock"
}

build_pillow_simd() {
    local folder=$venv/pillow_simd wheel
    CC="cc -mavx2" "$venv/bin/python" -m pip wheel --require-hashes --no-deps --no-build-isolation \
        --no-binary pillow-simd -C xcb=disable -C freetype=disable -C tiff=disable -C webp=disable -C lcms=disable \
        -C jpeg2000=disable -w "$folder" -r "$locks/pillow_simd.lock" &&
        wheel=$("$venv/bin/python" "$root/launch/pillow_simd.py" "$folder"/pillow_simd-*.whl "$folder" simd.avx2) &&
        uv_install --no-deps "$wheel" &&
        "$venv/bin/python" -c 'import PIL._imaging'
}

install_pil() {
    local obstacle
    obstacle=$(obstacle_to_simd)
    if [[ -z $obstacle ]]; then
        step "pillow-simd, built for AVX2" build_pillow_simd && return
        obstacle="its build failed"
    fi
    say "NOTE: stock pillow is used, not pillow-simd, because $obstacle."
    say "NOTE: everything works; preprocessing resizes pictures 3 to 4 times more slowly."
    step "stock pillow" uv_install --reinstall --require-hashes --no-deps --only-binary :all: -r "$locks/pillow.lock"
}

install_project() {
    step "this project" uv_install --no-deps --no-build-isolation --editable "$root"
    step "check that all requirements agree" "$venv/bin/python" -m pip check
    wanted_project >"$venv/project"
}

make_packages() {
    if [[ -e $venv && ! -f $venv/made-by-launch ]]; then
        stop "$venv exists and was not made by this script. Move it away or remove it, then call again."
    fi
    [[ -w $root ]] || stop "$root is not writable for $(id -un): .venv is made there."
    may_install_debian_packages || require_python
    rm -rf "$venv"
    mkdir "$venv"
    echo "This directory is made, and replaced as a whole, by launch/environment.sh." >"$venv/made-by-launch"
    if may_install_debian_packages; then
        install_debian_packages
        python=$(find_python)
        require_python
    fi
    make_virtual_environment
    install_packages
    install_pil
    wanted_packages >"$venv/packages"
}

project=wanted
case $* in
"") ;;
--packages) project=unwanted ;;
*) stop "expected --packages or nothing, found: $*" ;;
esac
python=$(find_python)
if ! is_ready; then
    exec {queue}<"$root/launch" # a lock on the folder: callers at the same time wait for the first
    if command -v flock >/dev/null && ! flock --nonblock "$queue"; then
        say "waiting for another call that is at work in $venv"
        flock "$queue"
    fi
    python=$(find_python)
    packages_are_ready || make_packages
    is_ready || install_project
    say "ready: $("$venv/bin/python" --version), PIL $("$venv/bin/python" -c 'import PIL; print(PIL.__version__)')"
fi
